"""The zoo as a whole: what is not finished is run, and cells, tests and report are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from longrec.core import console
from longrec.core.errors import UsageError
from longrec.evaluation.summary import LEADING
from longrec.models import MODELS, SequenceModel
from longrec.runs.describe import describe_model
from longrec_bench.zoo.cells import (
    check_table,
    is_finished,
    pairs_of,
    read_cells,
    write_cells,
    write_failure,
    write_log,
    write_pairs,
)
from longrec_bench.zoo.logs import check_names, open_log
from longrec_bench.zoo.report import write_report
from longrec_bench.zoo.run import Job, ZooPlan, run_jobs


def bench_zoo(plan: ZooPlan, logs: Sequence[str], work: Path, data: Path, out: Path) -> list[str]:
    """Run what is not finished, and write the cells, the tests of pairs and the report.

    Parameters
    ----------
    plan : models, recipe, budget.
    logs : as `open_log` takes them.
    work : histories, runs, ranks and what processes print; outside of a checkout.
    data : the public logs' files.
    out : cells and report, nothing of which is of a log's rows.

    Returns
    -------
    list of str
        What failed, in words.
    """
    inside = [folder for folder in (work, *work.parents) if (folder / ".git").exists()]
    if inside:
        raise UsageError(
            f"work is {work}, in the checkout {inside[0]}: ranks and weights of logs are not to be "
            "committed, so name a folder outside of it"
        )
    check_names(logs)
    opened = [open_log(log, work, data) for log in logs]
    jobs = [plan.jobs_on(log, work) for log in opened]
    for own in jobs:
        check_table(own[0], out)
        for job in own:
            job.check()
    open_ones = [job for own in jobs for job in own if not is_finished(job, out)]
    total, ended = sum(map(len, jobs)), sum(map(len, jobs)) - len(open_ones)
    console.say(f"{total} cells, {ended} of them finished; {plan.jobs} at a time")
    failed = []
    with console.progress_bar("cells") as bar:

        def done(job: Job, error: str | None) -> None:
            nonlocal ended
            ended += 1
            bar(ended, total)
            name = f"{ended} of {total}: {job.log.name}, {job.text}"
            if error is None and job.ended() is None:
                error = "it ended well and left no result"
            if error is not None:
                write_failure(job, error, out)
                failed.append(f"{job.log.name}, {job.model}: {error}")
                console.say(f"{name}: {error}")
                return
            for cell in write_cells(job, out):
                minutes, value = cell["seconds"] / 60, cell["metrics"][LEADING]
                state = cell["ended"] if cell["converged"] else "still improving"
                console.say(f"{name}: {LEADING} {value:.4f} after {minutes:.1f} minutes, {state}")

        bar(ended, total)
        for own in jobs:
            write_log(own[0], out)
        run_jobs(open_ones, plan.jobs, done)
    cells = read_cells(out)
    for log in opened:  # of what earlier calls found, too
        names = [cell["model"] for cell in cells[log.name] if cell["recipe"] == plan.recipe]
        own = replace(plan, models=list(dict.fromkeys(names))).jobs_on(log, work)
        write_pairs(own, list(pairs_of([job.model for job in own], linear_models())), out)
    for path in write_report(out):
        console.say(f"wrote {path}")
    return failed


def linear_models() -> list[str]:
    """Trained models whose cost is linear in the history."""
    trained = [name for name, cls in MODELS.items() if issubclass(cls, SequenceModel)]
    return [name for name in trained if describe_model(name)["linear"]]
