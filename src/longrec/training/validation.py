"""Validation of a fit: which targets are ranked, and what is measured on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from longrec.core.choices import ExcludeSeen
from longrec.data.splits import Targets
from longrec.evaluation.metrics import summarise


def draw_targets(targets: Targets, most: int, seed: int) -> Targets:
    """At most `most` of the targets, drawn by the seed, in their order."""
    if len(targets) <= most:
        return targets
    chosen = np.sort(np.random.default_rng(seed).choice(len(targets), most, replace=False))
    return targets.where(chosen)


@dataclass(frozen=True)
class Validated:
    """What a validation measured, as served.

    Attributes
    ----------
    ndcg10, hr10 : under the policy that serves.
    exclude_seen : that policy: whether items that a user has seen are hidden.
    ndcg10_hiding, ndcg10_showing : under the one and the other policy.
    repeats : share of the targets whose item is in their own input.
    targets : how many there were.
    """

    ndcg10: float
    hr10: float
    exclude_seen: bool
    ndcg10_hiding: float
    ndcg10_showing: float
    repeats: float
    targets: int


def validated(ranks: pl.DataFrame, exclude_seen: ExcludeSeen = "auto") -> Validated:
    """Measure ranks as served: under the policy given, or under the one that serves better.

    Parameters
    ----------
    ranks : of `rank_targets`.
    exclude_seen : bool or "auto"
        "auto": hide what a user has seen unless showing it gives a larger NDCG@10.
    """
    found = {
        hides: summarise(ranks["rank_hiding" if hides else "rank_showing"].to_numpy(), ks=(10,))
        for hides in (True, False)
    }
    hiding, showing = found[True]["ndcg@10"], found[False]["ndcg@10"]
    hides = not showing > hiding if exclude_seen == "auto" else exclude_seen
    served = found[hides]
    repeats = int(ranks["repeat"].sum()) / max(len(ranks), 1)
    return Validated(
        served["ndcg@10"], served["hr@10"], hides, hiding, showing, repeats, len(ranks)
    )
