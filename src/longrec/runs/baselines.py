"""What counting alone reaches: popularity, the last item's followers, and transitions.

They stand beside every model's numbers, since nobody can tell a weak model from hard data without
them. They are counted on the same training events and ranked on the same targets, each served under
the policy on seen items that validates better; where there are many targets and items, on a drawn
sample of them, which is said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from longrec.config.training import TrainConfig
from longrec.core.choices import SplitName
from longrec.data.catalog import Catalog
from longrec.data.histories import Histories
from longrec.data.splits import Split, training_counts
from longrec.evaluation.baseline import Baseline
from longrec.evaluation.metrics import CUTOFFS
from longrec.evaluation.rank_targets import rank_targets
from longrec.evaluation.summary import as_served, compare_ranks, leading, summarise_ranks
from longrec.models import MODELS, build_model
from longrec.models.common.scorer import Scorer
from longrec.training.fit import fit
from longrec.training.validation import draw_targets

BASELINES = ("popularity", "last-item", "transitions")
"""Models that stand beside every other, the weakest first."""
MOST_SCORES = 300_000_000
"""Of scores of all items for all ranked targets: of more targets a sample is drawn. Beauty's are
ranked whole, in seconds; of 323 thousand users and 46 thousand items 6,500 targets."""
FEWEST = 2_000
"""Targets that are ranked however many items there are."""


def measure_baselines(
    histories: Histories,
    split: Split,
    which: SplitName = "test",
    *,
    ks: Sequence[int] = CUTOFFS,
    most: int | None = None,
    seed: int = 0,
    ranks: pl.DataFrame | None = None,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Baseline]:
    """Count the baselines on a split's training events and rank its targets.

    Parameters
    ----------
    histories, split : Histories, Split
    which : {"test", "validation"}
        Which targets.
    ks : sequence of int
        Lengths of the lists that are measured.
    most : int or None
        Most targets that are ranked, drawn by the seed as a validation draws them; None: as many as
        are ranked in seconds (`MOST_SCORES`).
    seed : int
    ranks : polars.DataFrame or None
        Of a model, with `rank_served`, one row for each of these targets and in their order: its
        lead over each baseline is measured.
    progress : callable or None
        Called with the name of each before it is counted.

    Returns
    -------
    dict
        `Baseline` by name; {} where there is no target.
    """
    targets = getattr(split, which)
    if not len(targets):
        return {}
    affordable = max(FEWEST, MOST_SCORES // (histories.n_items + 1))
    drawn = draw_targets(targets, most or affordable, seed)
    validated = replace(split, validation=draw_targets(split.validation, affordable, seed))
    counts = training_counts(histories, split.train_end)[1:]
    popular = Catalog(histories.catalog.ids, counts).popular
    metric, own = leading(ks), None
    if ranks is not None:
        own = ranks.with_columns(position=pl.Series(targets.positions))
        own = own.filter(pl.col("position").is_in(drawn.positions))
    found = {}
    for name in BASELINES:
        if progress is not None:
            progress(name)
        model = build_model(name, MODELS[name].config_class(), histories.n_items)
        config = TrainConfig(validation_users=affordable, seed=seed)
        policy = fit(model, histories, validated, config, Path()).policy["exclude_seen"]
        placed = rank_targets(Scorer(model), histories, drawn, popular=popular)
        placed = as_served(placed, policy)
        metrics = summarise_ranks(placed, split.protocol, ks=ks)
        found[name] = Baseline(
            estimates=metrics.estimates,
            intervals=metrics.intervals,
            exclude_seen=policy,
            targets=len(drawn),
            of=len(targets),
            metric=metric,
            lead=None if own is None else compare_ranks(own, placed, metric),
        )
    return found


def validate_baselines(
    histories: Histories,
    split: Split,
    config: TrainConfig,
    progress: Callable[[int, int], None],
) -> dict[str, dict[str, float]]:
    """What the baselines reach on the targets by which a training with `config` validates.

    Parameters
    ----------
    histories, split : Histories, Split
    config : TrainConfig
    progress : callable
        Called with (baselines counted, baselines in all).

    Returns
    -------
    dict
        By name "served/ndcg@10" and "served/hr@10", each under its own best policy on seen items;
        {} where there is no target.
    """
    if not len(split.validation):
        return {}
    drawn = TrainConfig(validation_users=config.validation_users, seed=config.seed)
    found = {}
    for number, name in enumerate(BASELINES):
        progress(number, len(BASELINES))
        model = build_model(name, MODELS[name].config_class(), histories.n_items)
        found[name] = fit(model, histories, split, drawn, Path()).validation
    return found
