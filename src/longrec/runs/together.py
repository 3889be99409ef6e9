"""A run of several processes: rank 0 keeps its folder and says what is trained, the others follow.

All carry out the same plan and end with the same recommender; rank 0 alone shows, writes and saves.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from longrec.core.errors import our_fault
from longrec.data.histories import Histories
from longrec.models.common.settings import stored_settings
from longrec.recommender import Recommender
from longrec.runs.carry_out import carry_out
from longrec.runs.folder import Plan
from longrec.runs.warm_start import reopen
from longrec.training.processes import Processes


def lead(plan: Plan, resume: bool) -> None:
    """Tell the others what rank 0 is about to carry out."""
    Processes.here().document_of_first({"plan": asdict(plan), "resume": resume})


def dismiss() -> None:
    """Tell the others that nothing follows."""
    Processes.here().document_of_first()


def follow(data: Histories, old: Recommender | None, device: str) -> Recommender:
    """Carry out with rank 0 what it tells, plan after plan; the last one's recommender."""
    found = None
    while (told := Processes.here().document_of_first()) is not None:
        plan = Plan(**told["plan"] | {"settings": stored_settings(told["plan"]["settings"])})
        started = plan.provenance.get("warm_start")
        if old is None and started is not None:
            old = reopen(started)
        nowhere = Path()  # rank 0 alone writes
        found = carry_out(data, plan, old, nowhere, told["resume"], device, False, None)
    if found is None:
        raise our_fault("no plan was told to this process")
    return found
