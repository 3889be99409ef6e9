"""Read the folders of evaluated runs: a row of a report, with every number from their own files."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from longrec.artifact import training_log
from longrec.artifact.folder import EVALUATION
from longrec.core import sealed
from longrec.core.errors import DataError
from longrec.evaluation.report.contents import MEMORY, Cost, ReportRow
from longrec.evaluation.summary import Metrics, summarise_ranks
from longrec.runs.sizes import sizes_of


def report_row(
    runs: Sequence[Path],
    name: str,
    memory: Sequence[Path] = (),
    evaluations: Sequence[Path] | None = None,
) -> ReportRow:
    """One row from the evaluated runs of one model, which differ in their seed alone.

    Metrics are averaged target by target, costs by run (of memory the largest is taken, of the
    processor's share the least), and the log is that of the first run.

    Parameters
    ----------
    runs
        Folders that `longrec train` and `longrec evaluate` wrote.
    name
        What the row is called.
    memory
        Files with what the processes that trained them used, where that was measured: memory and
        time.
    evaluations
        Folders of one evaluation of each run; None: the runs' own tests, in their folders.
    """
    places = runs if evaluations is None else evaluations
    trainings = [read_json(run / "provenance.json")["training"] for run in runs]
    every = [Metrics.from_dict(read_json(place / "metrics.json")) for place in places]
    metrics = every[0]
    if len(runs) > 1:
        ranks = [read_ranks(place) for place in places]
        policies = {own.exclude_seen for own in every}
        averaged = summarise_ranks(
            *(ranks, metrics.protocol, metrics.notes),
            split=metrics.split,
            exclude_seen=policies.pop() if len(policies) == 1 else None,
        )
        lists = [key for key in metrics if key not in averaged]
        means = {key: statistics.fmean(own[key] for own in every) for key in lists}
        metrics = replace(
            *(averaged,),
            estimates=averaged.estimates | means,
            events=metrics.events,
            cut=metrics.cut,
            lists=metrics.lists,
        )
    sizes = sizes_of(read_json(runs[0] / "config.json"))
    used = [read_json(path) for path in memory if path.is_file()]
    peaks = [one.get("peak_bytes") for one in used]
    shares = [one["processor_seconds"] / one["seconds"] for one in used if one.get("seconds")]
    seconds = statistics.fmean(t["seconds"] for t in trainings)
    events = statistics.fmean(t["events"] for t in trainings)
    counted = trainings[0]["stop"] == "counted"
    return ReportRow(
        name,
        "baseline" if counted else "model",
        metrics,
        Cost(
            seconds=seconds,
            epochs=statistics.fmean(t["epochs"] for t in trainings),
            events_per_second=events / seconds if seconds else None,
            peak_bytes=max((peak for peak in peaks if peak), default=None),
            processor_share=min(shares, default=None),
            **sizes,
        ),
        converged=all(t["converged"] for t in trainings),
        ended=", ".join(dict.fromkeys(t["stop"] for t in trainings)),
        log=None if counted else read_log(runs[0]),
        seeds=len(runs),
        spread={key: statistics.stdev(own[key] for own in every) for key in every[0]}
        if len(runs) > 1
        else {},
    )


def read_log(run: Path) -> pl.DataFrame:
    """A run's log as reports have it; runs without a memory bank have nulls in its columns."""
    log = training_log.read_log(run)
    return log.select(
        "epoch", "step", "seconds", "loss", pl.col("ndcg10").alias("validation"), *MEMORY
    )


def read_ranks(place: Path) -> pl.DataFrame:
    """The ranks that an evaluation left in a run's folder, or in one of its own."""
    if "digests" in read_json(place / EVALUATION.document):
        return EVALUATION.read_whole(place, lambda _, files: _read_ranks(files["ranks.parquet"]))
    return _read_ranks(place / "ranks.parquet")  # of longrec 0.1.0


def _read_ranks(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path} cannot be read ({error}): {EVALUATION.mend}.") from error


def read_json(path: Path) -> dict[str, Any]:
    """One of a run's JSON files.

    Raises
    ------
    DataError
        When it is missing or damaged.
    """
    return sealed.read_json(path, "train and evaluate the run")


def made_with(run: Path) -> str:
    """What a run's numbers must be quoted with: command, seed, commit, machine and time."""
    about = read_json(run / "provenance.json")
    machine = about["machine"]
    gpu = "" if machine.get("gpu") is None else f", {machine['gpu']}"
    return (
        f"`{about['command']}`; seed {about['seed']}, commit {about['commit']}, "
        f"torch {about['versions']['torch']}, {machine['processor']}{gpu}, "
        f"{machine['threads']} thread(s), started {about['started']}"
    )
