"""Evaluations of a run, kept side by side: each in a folder of its own, none overwritten.

RUN/evaluations/20261129T101500Z-test-leave-one-out/
  metrics.json     every number, and what it is of: protocol, split, policy, data, weights, time
  ranks.parquet    one row per target: user and item as the log has them, and the ranks

The latest one of the run's own test (its protocol, its data, its policy) stands in RUN as well, as
RUN/metrics.json and RUN/ranks.parquet.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from longrec.artifact.artifact import Artifact
from longrec.artifact.folder import EVALUATION, tensors_of
from longrec.core.errors import DataError, LongrecError, first_line
from longrec.core.files import write_file
from longrec.core.sealed import read_json
from longrec.core.serialise import serialise
from longrec.evaluation.baseline import Baseline
from longrec.evaluation.summary import Metrics

FOLDER = "evaluations"
_SAME = ("protocol", "cut", "split", "events", "exclude_seen", "ks")


def keep(
    recommender: Artifact,
    metrics: Metrics,
    ranks: pl.DataFrame,
    provenance: Mapping[str, Any],
    own: bool,
) -> None:
    """Write an evaluation into the recommender's folder.

    Parameters
    ----------
    recommender, metrics, ranks
        What was evaluated, and what was found.
    provenance : mapping
        Data, command and machine.
    own : bool
        Whether it is the run's own test, which is also written beside the model.

    Raises
    ------
    LongrecError
        When it cannot be written, or another recommender was saved to the folder meanwhile.
    """
    folder = recommender.folder
    assert folder is not None
    if tensors_of(folder) != recommender.saved_tensors:
        raise LongrecError(
            f"{folder}: the evaluation was not kept: another recommender was saved there since "
            "this one was loaded. Load it again, or save this one to a folder of its own."
        )
    about = metrics.to_dict() | {
        "provenance": dict(provenance),
        "model": recommender.name,
        "tensors": recommender.saved_tensors,
    }
    data = serialise(ranks, "parquet")

    def write(work: Path) -> None:
        write_file(work / "ranks.parquet", data)

    place: Path | None = None
    try:
        place = _free(folder / FOLDER, metrics)
        EVALUATION.replace(place, about, write)
        if own:
            EVALUATION.replace(folder, about, write)
    except OSError as error:
        if place is not None and not (place / EVALUATION.document).is_file():
            shutil.rmtree(place, ignore_errors=True)
        why = first_line(error)
        raise LongrecError(f"{folder}: the evaluation was not kept: {why}") from error


def kept_baselines(recommender: Artifact, metrics: Metrics) -> dict[str, Baseline] | None:
    """The baselines of an earlier evaluation that was the same in everything; None without one."""
    if recommender.folder is None:
        return None
    for document in read_evaluations(recommender.folder):
        if document.get("tensors") != recommender.saved_tensors or not document.get("baselines"):
            continue
        try:
            earlier = Metrics.from_dict(document)
        except DataError:
            continue
        if all(getattr(earlier, key) == getattr(metrics, key) for key in _SAME):
            return earlier.baselines
    return None


def read_evaluations(run: Path) -> Iterator[dict[str, Any]]:
    """The metrics.json of every evaluation that a run keeps, the latest first."""
    for folder in sorted((run / FOLDER).glob("*/"), reverse=True):
        try:
            yield read_json(folder / EVALUATION.document, EVALUATION.mend)
        except DataError:
            continue  # being written, or damaged: the others stand by themselves


def _free(place: Path, metrics: Metrics) -> Path:
    """A folder that none has: by the time and what it is of, so that names sort by time."""
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{metrics.split}-{metrics.protocol}"
    place.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = place / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder
