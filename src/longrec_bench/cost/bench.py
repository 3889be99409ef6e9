"""The measurement of cost as a whole, and the folder that it is written to."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from longrec.artifact.provenance import command, commit
from longrec.core.files import writing_folder
from longrec.core.machine import load_average, machine, usable_cores, versions
from longrec_bench.cost.analysis import crossovers, exponents, ratios
from longrec_bench.cost.goals import goals
from longrec_bench.cost.passes import NEGATIVES, WINDOW
from longrec_bench.cost.plan import AT_ONCE, BATCH, EVENTS, QUESTIONS, TARGETS, CostPlan
from longrec_bench.cost.plots import figures
from longrec_bench.cost.roofline import limits
from longrec_bench.cost.sweep import ENOUGH, MOST, MOST_STEPS, SHARE, Sweep
from longrec_bench.cost.tables import facts, tables
from longrec_bench.cost.worker import measure_in_process
from longrec_bench.measurement import Progress, Row
from longrec_bench.tables import as_markdown


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
        When no process can be measured in.
    """
    plan = plan or CostPlan()
    found: dict[str, Any] = {"command": command(), "commit": commit(), "started": _now()}
    here = machine()
    facts = {
        "processor": here["processor"],
        "cores": here["cores"],
        "threads": plan.threads,
        "pinned": bool(usable_cores()),
        "load_before": load_average(),
        "versions": versions(),
    }
    sweep = Sweep(plan, measure_in_process, progress or (lambda done, total, words: None))
    rates = sweep.rates()
    sweep.run()
    cells = sweep.cells
    shares = [cell["processor_share"] for cell in cells]
    return found | {
        "ended": _now(),
        "cells": cells,
        "skipped": sweep.skipped,
        "ratios": ratios(cells),
        "exponents": exponents(cells),
        "crossovers": crossovers(cells),
        "goals": goals(cells),
        "limits": limits(cells, rates),
        "machine": facts | {"rates": rates, "processor_share": median(shares) if shares else None},
        "method": _method(plan),
    }


def write_folder(path: Path, found: dict[str, Any]) -> None:
    """Write found.json, cells.csv, tables.md and the figures as PNG and SVG.

    The folder appears whole or not at all.

    Raises
    ------
    UsageError
        When the folder is there and not empty.
    DataError
        When it cannot be written.
    """
    with writing_folder(path) as folder:
        text = json.dumps(found, indent=2, allow_nan=False) + "\n"
        (folder / "found.json").write_text(text, "utf-8")
        _write_csv(folder / "cells.csv", found["cells"])
        (folder / "tables.md").write_text(_markdown(found), "utf-8")
        for name, forms in figures(found["cells"]):
            for form, data in forms.items():
                (folder / f"{name}.{form}").write_bytes(data)


def _write_csv(path: Path, cells: list[Row]) -> None:
    """A line for each row; what a row does not have is empty."""
    columns = list(dict.fromkeys(key for cell in cells for key in cell))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(cells)


def _markdown(found: dict[str, Any]) -> str:
    parts = [f"### {table.title}\n\n{as_markdown(table)}" for table in tables(found)]
    machine = "".join(f"- {name}: {text}\n" for name, text in facts(found).items())
    method = "".join(f"- {line}\n" for line in found["method"])
    command = f"`{found['command']}` (commit {found['commit']})\n"
    return "\n".join([command, *parts, f"### machine\n\n{machine}", f"### method\n\n{method}"])


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
