"""Skeletons of systems with frames of their own, to hold the contract of models to them.

They are not registered: `register(monkeypatch)` does it for one test. Each has one trait:

    two-interests  two vectors of a user, the best one counts; a bias of each item
    untied         item vectors that are scored are not those that are read, and a bias
    target-aware   h and a candidate are scored together by a network
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from longrec.mixers.hydra import HydraMixer
from longrec.models import (
    MODELS,
    FeedForwardConfig,
    SequenceModel,
    register_model,
)


class TwoInterests(SequenceModel):
    """Two vectors of a user from one state, and a bias of each item."""

    streaming = "exact"
    config_class = FeedForwardConfig

    def __init__(self, config: FeedForwardConfig, n_items: int) -> None:
        mixers = [HydraMixer(config.dim) for _ in range(config.layers)]
        super().__init__(config, n_items, mixers, bias=True)
        self.interests = nn.Linear(config.dim, 2 * config.dim)

    def user_vectors(self, h: Tensor) -> Tensor:
        return self.interests(h).unflatten(-1, (2, -1))


class Untied(SequenceModel):
    """One table of items to read and another to score, with a bias."""

    streaming = "exact"
    config_class = FeedForwardConfig

    def __init__(self, config: FeedForwardConfig, n_items: int) -> None:
        mixers = [HydraMixer(config.dim) for _ in range(config.layers)]
        super().__init__(config, n_items, mixers, tied=False, bias=True)


class TargetAware(SequenceModel):
    """A network that sees h and the candidate's vector together."""

    streaming = "exact"
    config_class = FeedForwardConfig

    def __init__(self, config: FeedForwardConfig, n_items: int) -> None:
        mixers = [HydraMixer(config.dim) for _ in range(config.layers)]
        super().__init__(config, n_items, mixers)
        dim = config.dim
        self.pair = nn.Sequential(nn.Linear(3 * dim, dim), nn.GELU(), nn.Linear(dim, 1))

    def score_pairs(self, h: Tensor, items: Tensor) -> Tensor:
        vectors = self.item_vectors(items)
        users = h[:, None].expand_as(vectors)
        together = users * vectors
        inner = together.sum(-1) / math.sqrt(vectors.shape[-1])
        return inner + self.pair(torch.cat([users, vectors, together], -1))[..., 0]


SKELETONS: dict[str, type[SequenceModel]] = {
    "two-interests": TwoInterests,
    "untied": Untied,
    "target-aware": TargetAware,
}
SYSTEMS: dict[str, type[Any]] = {name: MODELS[name] for name in ("gru4rec", "hstu")} | SKELETONS
"""With those of longrec's own that have no norm and no way past mixers, or score by cosines."""
WITHOUT_TIMES = {"hstu": {"time_bias": False}}
"""Settings by which one of them needs no times."""


def register(monkeypatch: Any) -> None:
    """Put the skeletons into the registry until the test ends."""
    for name, model in SKELETONS.items():
        monkeypatch.setitem(MODELS, name, model)  # taken out again when the test ends
        del MODELS[name]
        register_model(name)(model)
