"""The recommenders that must be served alike everywhere: every registered model, and variants.

A model that is registered joins by that; a variant of settings, a skeleton of a system or an added
score joins by a line below. Each has items of one vector, some at the two ends of the catalog, so
that equal scores are in every list, and random weights: congruence does not depend on training.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from models import added_scores, skeletons
from models.added_scores import FollowersScore
from models.small_models import make
from small_histories import walks

from longrec.config.training import TrainConfig
from longrec.data.catalog import Catalog
from longrec.models import MODELS, CountingModel, Model, SequenceModel
from longrec.models.common.added_score import AddedScore, PopularityScore
from longrec.recommender import Recommender

N, FIRST = 40, 100
"""Items, and the id of item index 1; those of the others follow."""
TWINS = ((1, N), (2, N - 1), (3, 4), (3, 21))
"""Item indices of one vector and one bias."""


@dataclass(frozen=True)
class System:
    """A model with settings and perhaps an added score; `context` of its training."""

    model: str
    settings: dict[str, Any] = field(default_factory=dict)
    added: AddedScore | None = None
    context: int | None = None


def _followers(weight: float) -> FollowersScore:
    return FollowersScore.of([row[::-1] for row in walks(6, N, 3, 45, seed=1)], N, weight)


STREAMING = {
    name: System(name)
    for name, cls in {**MODELS, **skeletons.SKELETONS}.items()
    if cls.streaming != "none"
} | {
    "persrec": System("persrec", {"layers": 2}),  # the first layer knows of tokens alone
    "elastic by time": System("elastic", {"forgetting": "time", "gaps": True}),
    "elastic with a memory bank": System(
        "elastic", {"memory_slots": 64, "memory_topk": 4, "memory_every": 5}
    ),
    "elastic trained on 6 events": System("elastic", context=6),
    "sasrec trained on 6 events": System("sasrec", context=6),
    "elastic and followers": System("elastic", added=_followers(0.2)),
    "sasrec and popularity": System("sasrec", added=PopularityScore.of(np.arange(N) % 7, 0.5)),
    "two-interests and followers": System("two-interests", added=_followers(0.2)),
    "last-item and followers": System("last-item", added=_followers(0.2)),
}
"""Those that a stream can serve."""
LATER = {
    *("cosformer", "efficient-attention", "linear-transformer", "linrec", "performer"),
    *("gated-delta", "gated-linear", "lrurec", "mamba4rec", "gru4rec", "limarec", "fuxi-linear"),
    *("popularity", "recent-popularity", "item-knn", "ease"),
    *("esasrec", "fmlp-rec", "lightsans", "linformer", "wearec", "bert4rec", "hstu"),
}
"""Those that are served as others are, whose mixers alone differ: left to the slow tests, which go
through every system."""
WHOLE = {name: System(name) for name, cls in MODELS.items() if cls.streaming == "none"}
"""Those that read whole histories in both directions: no stream serves them."""


def register(patch: pytest.MonkeyPatch) -> None:
    """Register the skeletons and the added scores of tests until the patch ends."""
    skeletons.register(patch)
    added_scores.register(patch)


@cache
def recommender(name: str, exclude_seen: bool = True) -> Recommender:
    """A system by its name; the same whenever it is called, and not to be changed."""
    system = (STREAMING | WHOLE)[name]
    model = _model(system)
    catalog = Catalog(
        pl.Series("id", np.arange(FIRST, FIRST + N)), np.arange(N, dtype=np.int64) * 7 % 11
    )
    rec = Recommender(
        *(system.model, model, model.config, TrainConfig(context=system.context), catalog),
        exclude_seen=exclude_seen,
    )
    return rec if system.added is None else rec.with_added_score(system.added)


def twins_of(rec: Recommender) -> tuple[tuple[int, int], ...]:
    """Pairs of item indices whose scores are equal for everybody."""
    counts = isinstance(rec.model, CountingModel)
    return () if counts or rec.added is not None else TWINS


def _model(system: System) -> Model:
    if system.model in skeletons.SKELETONS:
        model: Model = added_scores.skeleton(system.model, N, **system.settings).float()
    else:
        layers = {"layers": 1} if hasattr(MODELS[system.model].config_class, "layers") else {}
        model = make(system.model, torch.float32, **(layers | system.settings))
    if isinstance(model, SequenceModel):
        weights = model.state_dict()
        for table in model.item_tables():
            for one, other in TWINS:
                weights[table][other] = weights[table][one]
    return model
