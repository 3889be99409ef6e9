"""Evaluate: what `longrec.evaluate` does, for every caller."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from longrec.artifact.artifact import Artifact
from longrec.artifact.folder import EVALUATION, tensors_of
from longrec.artifact.provenance import provenance
from longrec.core.choices import SplitName, check_choice
from longrec.core.errors import DataError, LongrecError
from longrec.core.files import write_file
from longrec.core.serialise import serialise
from longrec.data.aligned import align
from longrec.data.event_columns import check_columns
from longrec.data.histories import Histories
from longrec.data.splits import make_split
from longrec.evaluation.rank_targets import rank_targets
from longrec.evaluation.summary import Metrics, as_served, summarise_ranks
from longrec.inference.encode import check_times
from longrec.runs.final import untrained


def evaluate(
    recommender: Artifact,
    histories: Histories | str | Path | None = None,
    split: SplitName = "test",
    *,
    protocol: str | None = None,
    cut: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Metrics:
    """Rank every target among the whole catalog.

    Parameters
    ----------
    recommender : Recommender
    histories : Histories, path or None
        The recommender's own training data by default. Items it does not know are left out of
        inputs, and such targets are misses.
    split : {"test", "validation"}
        Which targets.
    protocol : str or None
        "leave-one-out", "global-time" or "prequential"; by default the one it was trained under,
        and the only one whose test events it has not seen.
    cut : str or None
        Of the protocol global-time: the date of the test cut, "2018-06-01", or two with a comma
        between, of validation and test; by default as it was trained.
    progress : callable or None
        Called with (events read, events in all).

    Returns
    -------
    Metrics
        A mapping: "ndcg@10", "hr@10", "mrr@10", …, "unfiltered/ndcg@10", …, with intervals,
        buckets, counts and notes as attributes. A recommender with a folder also keeps it there,
        as metrics.json and ranks.parquet.
    """
    check_choice("split", split, SplitName)
    data = recommender.data(histories)
    config, refit = recommender.train_config, recommender.provenance.get("refit")
    trained_under = (config.protocol, config.cut)
    if refit is not None:  # as the run that was measured
        trained_under = (refit["settings"]["protocol"], refit["settings"]["cut"])
    under = (protocol or trained_under[0], cut)
    if under == (trained_under[0], None):
        under = trained_under
    chosen = make_split(under[0], data, under[1])
    if refit is not None and len(getattr(chosen, split)):
        targets = getattr(chosen, split)
        newer = untrained(recommender, data, targets)
        # What it knows is told by its catalog, and not by what the protocol keeps for training.
        targets = targets.where(newer)
        targets = replace(targets, known=np.ones(len(targets), np.bool_))
        chosen = replace(chosen, **{split: targets})
    trained = recommender.columns
    check_columns(recommender.name, trained, data.columns, data.path, trained)
    known, aligned = align(data, chosen, recommender.catalog, trained)
    targets = getattr(aligned, split)
    if not len(targets):
        raise LongrecError(f"{data.path}: the protocol {chosen.protocol!r} has no {split} targets")
    if not len(known.items):
        raise DataError(
            f"{data.path}: the recommender knows none of its items; evaluate it on histories with "
            "item ids of the kind that it was trained on"
        )
    check_times(recommender.model, data.times)
    ranks = rank_targets(
        *(recommender.scorer, known, targets, recommender.train_config.context, progress),
        popular=recommender.catalog.popular,
    )
    ranks = as_served(ranks, recommender.exclude_seen)
    notes = dict(aligned.notes)
    own_data = recommender.provenance.get("data", {}).get("fingerprint") == data.fingerprint
    if own_data and under != trained_under:
        own_cut = "" if config.cut is None else f" cut at {config.cut}"
        notes["warning"] = (
            f"trained under {config.protocol}{own_cut}, so that some of these targets were "
            "training events"
        )
    if refit is not None and not newer.all():
        notes["warning"] = (
            f"a final run: {int((~newer).sum()):,} of {len(newer):,} targets are left out, since "
            "they are not newer than the events that it was trained on"
        )
    warm_start = recommender.provenance.get("warm_start", {})
    trained_before = (warm_start.get("targets_trained_before") or {}).get(split)
    if own_data and trained_before:
        notes["warning"] = (
            f"the warm start's old run was trained on {trained_before:,} of these targets"
        )
    metrics = summarise_ranks(
        ranks, chosen.protocol, notes, split=split, exclude_seen=recommender.exclude_seen
    )
    if recommender.folder is not None:
        _save(recommender.folder, recommender, metrics, ranks, data)
    return metrics


def _save(
    folder: Path, recommender: Artifact, metrics: Metrics, ranks: pl.DataFrame, data: Histories
) -> None:
    """Write the evaluation beside the model, in place of an earlier one."""
    if tensors_of(folder) != recommender.saved_tensors:
        raise LongrecError(
            f"{folder}: the evaluation was not kept: another recommender was saved there since "
            "this one was loaded. Load it again, or save this one to a folder of its own."
        )
    about = metrics.to_dict() | {
        "provenance": provenance(data, recommender.train_config.seed),
        "model": recommender.name,
        "tensors": recommender.saved_tensors,
    }
    try:
        EVALUATION.replace(
            folder,
            about,
            lambda work: write_file(work / "ranks.parquet", serialise(ranks, "parquet")),
        )
    except OSError as error:
        raise LongrecError(f"{folder}: the evaluation was not kept: {error}") from error
