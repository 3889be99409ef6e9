"""The measurement of cost as a whole, and the folder that it is written to."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

import polars as pl

from longrec.core.files import writing_folder
from longrec.core.threads import usable_cores
from longrec_bench.analysis import crossovers, exponents, limits, ratios
from longrec_bench.cost.passes import NEGATIVES, WINDOW
from longrec_bench.cost.plots import figures
from longrec_bench.cost.sweep import ENOUGH, MOST, MOST_STEPS, SHARE, Sweep
from longrec_bench.cost.worker import measure_in_process
from longrec_bench.goals import cost_goals
from longrec_bench.measurement import Progress, Row, describe_start, now
from longrec_bench.plan import AT_ONCE, BATCH, EVENTS, QUESTIONS, TARGETS, CostPlan
from longrec_bench.tables import as_markdown, machine_facts, tables


def bench_cost(plan: CostPlan, progress: Progress) -> Row:
    """Measure time and memory of mixers, models, memory banks and losses.

    Parameters
    ----------
    plan : what is measured.
    progress : called with (done, of all, what is done now).

    Returns
    -------
    dict
        Plain values: "cells", "skipped", "ratios", "exponents", "crossovers", "goals",
        "limits", "machine" (with its "rates"), "method", "command", "commit", "started", "ended".

    Raises
    ------
    LongrecError
        When no process can be measured in.
    """
    found = describe_start()
    sweep = Sweep(plan, measure_in_process, progress)
    rates = sweep.rates()
    sweep.run()
    cells = sweep.cells
    found["machine"] |= {
        "threads": plan.threads,
        "pinned": bool(usable_cores()),
        "processor_share": median(cell["processor_share"] for cell in cells) if cells else None,
        "rates": rates,
    }
    return found | {
        "ended": now(),
        "cells": cells,
        "skipped": sweep.skipped,
        "ratios": ratios(cells),
        "exponents": exponents(cells),
        "crossovers": crossovers(cells),
        "goals": cost_goals(cells),
        "limits": limits(cells, rates),
        "method": _method(plan),
    }


def write_folder(path: Path, found: Row) -> None:
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
        cells = pl.DataFrame(found["cells"], infer_schema_length=None)
        cells.write_csv(folder / "cells.csv")  # what a row does not have is empty
        parts = [f"`{found['command']}` (commit {found['commit']})\n"]
        parts += [f"### {table.title}\n\n{as_markdown(table)}" for table in tables(found)]
        facts = [f"{name}: {text}" for name, text in machine_facts(found).items()]
        for title, lines in (("machine", facts), ("method", found["method"])):
            parts.append(f"### {title}\n\n" + "".join(f"- {line}\n" for line in lines))
        (folder / "tables.md").write_text("\n".join(parts), "utf-8")
        for name, forms in figures(found["cells"]):
            for form, data in forms.items():
                (folder / f"{name}.{form}").write_bytes(data)


def _method(plan: CostPlan) -> list[str]:
    """How the figures came about, in plain words."""
    many = plan.batch or f"as many as have {AT_ONCE:,} events, at least one,"
    return [
        f"Every cell has {plan.rounds} samples (two if they take {ENOUGH:g} caps together), each "
        "in a process of its own, forked from one that has imported all and computed nothing; "
        f"those of one length and pass in an order drawn anew (seed {plan.seed}).",
        "A sample: one small pass to bring in code, one in which the peak of resident memory above "
        f"what was there before is taken, then up to {MOST} timed passes (steps: {MOST_STEPS}) "
        f"within {SHARE * plan.cap:g} s, at least one. The peak is noisy below 1 MiB.",
        f"{plan.threads} thread(s), pinned to as many cores where the system can; float32; width "
        "64, 2 heads, 16 experts; models with 2 layers, FFN 256, no dropout, as encoders: no loss "
        "over the catalog.",
        f"A pass of mixers and models is over {many} histories; seconds, bytes and operations "
        "are those of one history.",
        f"forward: no gradients. What streams exactly reads in windows of {WINDOW:,} events with "
        "the state carried on and keeps no outputs; all else reads the whole history at once.",
        "forward+backward: from a fixed gradient of the output. step: one more event from the "
        "state after so many; only what streams exactly has it.",
        "softmax-naive and sasrec-naive store all T x T scores. free: a model whose mixer returns "
        "its input; a ceiling is the ratio that such a mixer would give.",
        f"bank: read answers {QUESTIONS} questions; training is a step of elastic with the bank, "
        f"{BATCH} histories of {EVENTS} events, with the optimiser; stream is a step from a state.",
        f"loss: forward and backward for up to {TARGETS:,} targets at once, the cell's batch; "
        f"sampled has {NEGATIVES} negatives.",
        f"Skipped is what shorter histories predict to take longer than {plan.cap:g} s or more "
        "memory than there is.",
        "processor_share: of the time that the threads had; where it is well below 1 with one "
        "thread, something else wanted the core.",
        "operations: of matrix products alone; fused causal attention counts as half its square. "
        "ms of bytes: of a mixer's inputs and outputs alone, at the rate of copying.",
    ]
