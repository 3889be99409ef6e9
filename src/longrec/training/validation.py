"""Validation of a fit: which targets are ranked, and what is measured on them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl

from longrec.data.splits import Targets
from longrec.evaluation.metrics import MISS, summarise
from longrec.evaluation.summary import REPEATS_LEAD


def draw_targets(targets: Targets, most: int, seed: int) -> Targets:
    """At most `most` of the targets, drawn by the seed, in their order."""
    if len(targets) <= most:
        return targets
    chosen = np.sort(np.random.default_rng(seed).choice(len(targets), most, replace=False))
    return replace(
        targets,
        users=targets.users[chosen],
        positions=targets.positions[chosen],
        known=targets.known[chosen],
    )


def validation_metrics(ranks: pl.DataFrame) -> dict[str, float]:
    """ndcg@10 and hr@10, by the ranks that will lead the test's table.

    A target unseen in training misses; seen items are not filtered where repeats are common.
    """
    repeated = ranks["repeat"].sum() > REPEATS_LEAD * len(ranks)
    column = ranks["rank_unfiltered" if repeated else "rank"].to_numpy()
    metrics = summarise(np.where(ranks["known"].to_numpy(), column, MISS), ks=(10,))
    return {name: metrics[name] for name in ("ndcg@10", "hr@10")}
