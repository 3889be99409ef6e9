"""A run of several processes: rank 0 keeps its folder and says what is trained, the others follow.

All carry out the same plan and end with the same recommender; rank 0 alone shows, writes and saves.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from longrec.core.errors import DataError, UsageError, our_fault
from longrec.core.version import version
from longrec.data.histories import Histories
from longrec.models.common.settings import stored_settings
from longrec.recommender import Recommender
from longrec.runs.carry_out import carry_out
from longrec.runs.folder import Plan
from longrec.runs.warm_start import name_of, origin, reopen
from longrec.training.processes import Processes


def lead(plan: Plan, resume: bool) -> None:
    """Tell the others what rank 0 is about to carry out."""
    told = {"plan": asdict(plan), "resume": resume, "version": version()}
    Processes.here().document_of_first(told)


def dismiss() -> None:
    """Tell the others that nothing follows."""
    Processes.here().document_of_first()


def follow(data: Histories, old: Recommender | None, device: str) -> Recommender:
    """Carry out with rank 0 what it tells, plan after plan; the last one's recommender.

    Raises
    ------
    DataError
        When histories or warm start here are not those of rank 0.
    UsageError
        When longrec here is of another version.
    """
    found = None
    while (told := Processes.here().document_of_first()) is not None:
        if told["version"] != version():
            raise UsageError(
                f"longrec here is {version()} and {told['version']} in the first process: install "
                "the same version on all machines"
            )
        plan = Plan(**told["plan"] | {"settings": stored_settings(told["plan"]["settings"])})
        _same(f"{data.path}", data.fingerprint, plan.provenance["data"]["fingerprint"])
        started = plan.provenance.get("warm_start")
        if started is not None:
            old = old or reopen(started)
            _same(name_of(old), origin(old)["digest"], started["digest"])
        nowhere = Path()  # rank 0 alone writes
        found = carry_out(data, plan, old, nowhere, told["resume"], device, False, None)
    if found is None:
        raise our_fault("no plan was told to this process")
    return found


def _same(what: str, mine: str, first: str) -> None:
    if mine != first:
        raise DataError(
            f"{what} here is not what the first process trains on (it differs in its digest): copy "
            "it to every machine, or keep it where all of them see it"
        )
