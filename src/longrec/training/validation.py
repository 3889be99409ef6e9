"""Validation of a fit: which targets are ranked, and what is measured on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch

from longrec.artifact.training_log import ValidationRow
from longrec.config.training import TrainConfig
from longrec.core.choices import ExcludeSeen
from longrec.data.histories import Histories
from longrec.data.splits import Targets
from longrec.evaluation.metrics import summarise
from longrec.evaluation.rank_targets import rank_targets
from longrec.inference.encode import Progress
from longrec.models.common.scorer import Scorer
from longrec.training.processes import Processes


def draw_targets(targets: Targets, most: int, seed: int) -> Targets:
    """At most `most` of the targets, drawn by the seed, in their order."""
    if len(targets) <= most:
        return targets
    chosen = np.sort(np.random.default_rng(seed).choice(len(targets), most, replace=False))
    return targets.where(chosen)


MEASURED = ("rank_hiding", "rank_showing", "repeat")
"""What `validated` reads of the ranks."""


def rank_together(
    scorer: Scorer,
    histories: Histories,
    targets: Targets,
    context: int | None,
    progress: Progress,
    processes: Processes,
) -> pl.DataFrame:
    """The ranks of all targets, in their order, each found by one of the processes.

    See `rank_targets`; of several processes' ranks the columns of `MEASURED` are there.
    """
    mine = np.arange(processes.rank, len(targets), processes.number)
    ranks = rank_targets(scorer, histories, targets.where(mine), context, progress)
    if processes.number == 1:
        return ranks
    table = np.column_stack([mine, *(ranks[name].to_numpy() for name in MEASURED)])
    every = processes.all(torch.from_numpy(table.astype(np.int64))).numpy()
    every = every[every[:, 0].argsort()]
    return pl.DataFrame(dict(zip(MEASURED, every[:, 1:].T, strict=True)))


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


def policy_of(found: Validated | ValidationRow | None, config: TrainConfig) -> dict[str, Any]:
    """The policy on seen items, and why; None: nothing was validated."""
    setting = config.exclude_seen
    if found is None:
        decided = {"exclude_seen": True, "decided": "default"}
        return decided if setting == "auto" else {"exclude_seen": setting, "decided": "setting"}
    return {
        "exclude_seen": found.exclude_seen,
        "decided": "validation" if setting == "auto" else "setting",
        "targets": found.targets,
        "repeats": found.repeats,
        "ndcg10_hiding": found.ndcg10_hiding,
        "ndcg10_showing": found.ndcg10_showing,
    }


def named(found: Validated | ValidationRow) -> dict[str, float]:
    """Metrics of a validation by their keys."""
    return {"served/ndcg@10": found.ndcg10, "served/hr@10": found.hr10}
