"""Evaluate: what `longrec.evaluate` does, for every caller."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from longrec.artifact.artifact import Artifact
from longrec.artifact.provenance import provenance
from longrec.artifact.targets import targets_to_rank
from longrec.core import console
from longrec.core.arguments import check_flag, check_path, check_progress
from longrec.core.choices import ExcludeSeen, SplitName
from longrec.core.errors import UsageError
from longrec.data.histories import Histories
from longrec.data.splits import Targets
from longrec.evaluation.beyond_accuracy import beyond_accuracy
from longrec.evaluation.metrics import CUTOFFS
from longrec.evaluation.rank_targets import rank_targets
from longrec.evaluation.served_lists import ServedLists, mean_popularity
from longrec.evaluation.summary import SERVED, Metrics, as_served, summarise_ranks
from longrec.recommender import load
from longrec.retrieval.exact import ExactIndex
from longrec.runs.baselines import measure_baselines
from longrec.runs.evaluations import keep, kept_baselines
from longrec.runs.final import untrained

MOST_LISTS = 50_000
"""Served lists that are measured for coverage and the like; of more targets so many are drawn."""


def evaluate(
    recommender: Artifact | str | Path,
    histories: Histories | str | Path | None = None,
    split: SplitName = "test",
    *,
    protocol: str | None = None,
    cut: str | None = None,
    ks: Sequence[int] = CUTOFFS,
    exclude_seen: ExcludeSeen = "auto",
    baselines: bool = True,
    progress: Callable[[int, int], None] | bool | None = None,
) -> Metrics:
    """Rank every target among the whole catalog.

    Parameters
    ----------
    recommender : Recommender or path
        A trained recommender, or a run's folder.
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
    ks : sequence of int
        Lengths of the lists that are measured.
    exclude_seen : bool or "auto"
        As served: whether items that a user has seen are left out; "auto": as the recommender does.
    baselines : bool
        Whether to measure `longrec.runs.baselines.BASELINES` beside it.
    progress : callable, bool or None
        Called with (events read, events in all). True shows a bar, None shows it in a terminal or a
        notebook.

    Returns
    -------
    Metrics
        A mapping: "served/ndcg@10", "served/hr@10", …, "ndcg@10", …, "unfiltered/ndcg@10", …, with
        intervals, buckets, baselines, counts and notes as attributes. A recommender with a folder
        also keeps it there, in a folder of its own (`longrec.runs.evaluations`).
    """
    if not isinstance(recommender, Artifact):
        either = "a recommender, such as longrec.load(run), or the path of a run"
        recommender = load(check_path("recommender", recommender, either))
    ks = _checked_ks(ks)
    hides_seen = recommender.hides_seen(exclude_seen)
    check_flag("baselines", baselines)
    if not isinstance(progress, bool):
        check_progress(progress)
    data = recommender.data(histories)
    config, refit = recommender.train_config, recommender.provenance.get("refit")
    left_out = 0

    def newer(targets: Targets) -> Targets:
        nonlocal left_out
        is_new = untrained(recommender, data, targets)
        left_out = int((~is_new).sum())
        # What it knows is told by its catalog, and not by what the protocol keeps for training.
        return replace(targets.where(is_new), known=np.ones(int(is_new.sum()), np.bool_))

    asked = targets_to_rank(
        *(recommender, data, split, protocol, cut), narrowed=None if refit is None else newer
    )
    known, targets, under, notes = asked.histories, asked.targets, asked.under, asked.notes
    trained_under = recommender.trained_under
    scorer, catalog = recommender.scorer, recommender.catalog
    numbers = None
    if len(targets) > MOST_LISTS:
        generator = np.random.default_rng(config.seed)
        numbers = np.sort(generator.choice(len(targets), MOST_LISTS, replace=False))
    lists = ServedLists(
        *(scorer, ExactIndex(scorer), known, targets, max(ks), hides_seen, catalog.popular),
        chosen=numbers,
    )
    with console.shown(progress, "ranking") as report:
        ranks = rank_targets(
            *(scorer, known, targets, config.context, report, catalog.popular, lists.use)
        )
    ranks = as_served(ranks, hides_seen)
    trained_on = recommender.provenance.get("data", {}).get("fingerprint")
    own_data = trained_on == data.fingerprint
    if own_data and under != trained_under:
        own_cut = "" if config.cut is None else f" cut at {config.cut}"
        notes["warning"] = (
            f"trained under {config.protocol}{own_cut}, so that some of these targets were "
            "training events"
        )
    if refit is not None:
        notes.pop(f"{split}_unseen_share", None)  # which is of all targets
    if left_out:
        notes["warning"] = (
            f"a final run: {left_out:,} of {left_out + len(targets):,} targets are left out, since "
            "they are not newer than the events that it was trained on"
        )
    warm_start = recommender.provenance.get("warm_start", {})
    trained_before = (warm_start.get("targets_trained_before") or {}).get(split)
    if own_data and trained_before:
        notes["warning"] = (
            f"the warm start's old run was trained on {trained_before:,} of these {len(targets):,} "
            "targets, which flatters the numbers"
        )
    metrics = summarise_ranks(ranks, under[0], notes, split=split, exclude_seen=hides_seen, ks=ks)
    popularity = mean_popularity(known, targets, catalog.counts)
    if numbers is not None:
        popularity = popularity[numbers]
    about_lists = beyond_accuracy(lists.items, catalog.counts, popularity, ks)
    metrics = replace(
        metrics,
        estimates=metrics.estimates | {SERVED + key: x for key, x in about_lists.items()},
        cut=under[1],
        events=data.fingerprint,
        lists=len(lists.items),
    )
    if baselines:
        beside = kept_baselines(recommender, metrics)
        if beside is None:
            beside = measure_baselines(data, asked.whole, split, ks=ks, ranks=ranks)
        metrics = replace(metrics, baselines=beside)
    if recommender.folder is not None:
        wanted = asked.wanted
        ranks = ranks.with_columns(
            user=data.user_ids.gather(wanted.users), position=pl.Series(wanted.positions)
        ).insert_column(2, data.catalog.take(data.items[wanted.positions]).alias("item"))
        own = (
            split == "test"
            and trained_on in (None, data.fingerprint)
            and under == trained_under
            and refit is None
        )
        own = own and hides_seen == recommender.exclude_seen and set(CUTOFFS) <= set(ks)
        keep(recommender, metrics, ranks, provenance(data, config.seed), own)
    return metrics


def _checked_ks(ks: Sequence[int]) -> tuple[int, ...]:
    found = tuple(ks) if isinstance(ks, list | tuple | range) else ()
    if not found or any(isinstance(k, bool) or not isinstance(k, int) or k < 1 for k in found):
        raise UsageError(f"ks is {ks!r}; it must be whole numbers from 1, such as (10, 20, 50)")
    return tuple(sorted(set(found)))
