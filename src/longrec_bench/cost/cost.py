"""What computing costs on this machine: the measurement as a whole."""

from __future__ import annotations

from datetime import UTC, datetime
from statistics import median
from typing import Any

from longrec.artifact.provenance import command, commit
from longrec.core.machine import machine, versions
from longrec_bench.cost.analysis import crossovers, exponents, ratios
from longrec_bench.cost.goals import goals
from longrec_bench.cost.limits import limits
from longrec_bench.cost.plan import AT_ONCE, BATCH, EVENTS, QUESTIONS, TARGETS, CostPlan
from longrec_bench.cost.processes import Processes
from longrec_bench.cost.turns import ENOUGH, MOST, MOST_STEPS, SHARE, Turns
from longrec_bench.cost.work import NEGATIVES, WINDOW
from longrec_bench.machine import load, usable_cores
from longrec_bench.turns import Progress


def bench_cost(plan: CostPlan | None = None, progress: Progress | None = None) -> dict[str, Any]:
    """Measure time and memory of mixers, models, memory banks and losses.

    Parameters
    ----------
    plan : None: the default one, which takes hours.
    progress : called with (done, of all, what is done now).

    Returns
    -------
    dict
        Plain values: "cells", "skipped", "ratios", "exponents", "crossovers", "goals", "limits",
        "machine", "method", "command", "commit", "started", "ended".

    Raises
    ------
    LongrecError
        When the process that starts the measurements has died.
    """
    plan = plan or CostPlan()
    tell: Progress = progress or (lambda done, total, words: None)
    found: dict[str, Any] = {"command": command(), "commit": commit(), "started": _now()}
    told = machine()
    facts: dict[str, Any] = {
        "processor": told["processor"],
        "cores": told["cores"],
        "threads": plan.threads,
        "pinned": bool(usable_cores()),
        "load_before": load(),
        "versions": versions(),
    }
    with Processes() as processes:
        turns = Turns(plan, processes, tell)
        facts["rates"] = turns.rates()
        turns.take()
    cells = turns.cells
    shares = [cell["processor_share"] for cell in cells]
    facts["processor_share"] = median(shares) if shares else None
    return found | {
        "ended": _now(),
        "cells": cells,
        "skipped": turns.skipped,
        "ratios": ratios(cells),
        "exponents": exponents(cells),
        "crossovers": crossovers(cells),
        "goals": goals(cells),
        "limits": limits(cells, facts["rates"]),
        "machine": facts,
        "method": _method(plan),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _method(plan: CostPlan) -> list[str]:
    """How the figures came about, in plain words."""
    many = plan.batch or f"as many as have {AT_ONCE:,} events, at least one,"
    return [
        f"Every cell has {plan.rounds} turns, each in a process of its own, forked from one that "
        "has imported all and computed nothing; cells of one length and pass take turns in an "
        f"order drawn anew (seed {plan.seed}). Two turns if they take {ENOUGH:g} caps together.",
        "A turn: build, one small pass to bring in code, one pass in which the peak of resident "
        f"memory above what was there before is taken, then up to {MOST} timed passes (steps: "
        f"{MOST_STEPS}) within {SHARE * plan.cap:g} s, at least one. Median, least and most are of "
        "the timed passes of all turns; the peak is the median of turns, and noisy below 1 MiB.",
        f"{plan.threads} thread(s), pinned to as many cores where the system can; float32; width "
        "64, 2 heads, 16 experts; models with 2 layers, FFN 256, no dropout, as encoders: no loss "
        "over the catalog.",
        f"A pass of readers is over {many} histories; their seconds, bytes and operations are "
        "those of a pass over that number.",
        f"forward: no gradients. What streams exactly reads in windows of {WINDOW:,} events with "
        "the state carried on and keeps no outputs; all else reads the whole history at once.",
        "forward+backward: one pass over the whole history from a fixed gradient of the output; a "
        "mixer's input has a gradient too, a model's items have none.",
        "step: one more event from the state after so many; only what streams exactly has it.",
        "softmax-naive and sasrec-naive store all T x T scores. free: a model whose mixer returns "
        "its input; a ceiling is the ratio that such a mixer would give.",
        f"bank: read answers {QUESTIONS} questions; training is a step of elastic with the bank, "
        f"{BATCH} histories of {EVENTS} events, forward, backward and optimiser; stream is a step "
        "of it from a state.",
        f"loss: forward and backward for up to {TARGETS:,} targets at once, the cell's batch; "
        f"sampled has {NEGATIVES} negatives.",
        f"Skipped is what shorter histories predict to take longer than {plan.cap:g} s or more "
        "memory than there is.",
        "processor_share: of the time that the threads had; where it is well below 1 with one "
        "thread, something else wanted the core.",
        "operations: of matrix products alone; fused causal attention counts as half its square.",
    ]
