"""Skeletons of systems with frames of their own, to hold the contract of models to them.

They are not registered: `register(monkeypatch)` does it for one test. Each has one trait:

    hstu           gated attention without a feed-forward network, cosine scores over a temperature
    two-interests  two vectors of a user, the best one counts; a bias of each item
    untied         item vectors that are scored are not those that are read, and a bias
    target-aware   h and a candidate are scored together by a network
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, silu

from longrec.mixers import Context, Mixer
from longrec.mixers.base import EMPTY
from longrec.mixers.hydra import HydraMixer
from longrec.models import (
    MODELS,
    FeedForwardConfig,
    ResidualBlock,
    SequenceConfig,
    SequenceModel,
    register_model,
)
from longrec.models.common.config import check_heads


class HSTUMixer(Mixer):
    """y = W (LN(A V) * U), A = silu(Q K^T) / T with a causal mask, U, V, Q, K = silu(x W)."""

    causal = True
    linear = False
    cost = "O(T² D)"
    undecayed = ("distance",)

    def __init__(self, dim: int, heads: int, max_length: int) -> None:
        super().__init__()
        self.heads = heads
        self.inputs = nn.Linear(dim, 4 * dim, bias=False)
        self.distance = nn.Parameter(torch.zeros(heads, max_length))
        self.norm, self.output = nn.LayerNorm(dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, ctx: Context = EMPTY) -> Tensor:
        events = x.shape[1]
        u, *parts = silu(self.inputs(x)).chunk(4, -1)
        v, q, k = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        gap = torch.arange(events, device=x.device)
        gap = gap[:, None] - gap
        scores = q @ k.mT + self.distance[:, gap.clamp_min(0)]
        attention = silu(scores).masked_fill(gap < 0, 0.0) / (gap[:, :1] + 1)
        mixed = (attention @ v).transpose(1, 2).flatten(2)
        return self.output(self.norm(mixed) * u)


@dataclass(frozen=True)
class HSTUConfig(SequenceConfig):
    """Settings of the HSTU skeleton, which has no feed-forward network."""

    heads: int = 2
    max_length: int = 30

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self.dim, self.heads)


class HSTU(SequenceModel):
    """Gated attention blocks without a feed-forward network, cosine scores over .05."""

    paper = "arXiv 2402.17152"
    streaming = "windowed"
    config_class = HSTUConfig

    def __init__(self, config: HSTUConfig, n_items: int) -> None:
        heads, length = config.heads, config.max_length
        mixers = [HSTUMixer(config.dim, heads, length) for _ in range(config.layers)]
        super().__init__(config, n_items, mixers, block=ResidualBlock)
        self.max_length = length

    def user_vectors(self, h: Tensor) -> Tensor:
        return normalize(h, dim=-1)[:, None] / 0.05

    def item_vectors(self, items: Tensor | None = None) -> Tensor:
        return normalize(super().item_vectors(items), dim=-1)


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
    "hstu": HSTU,
    "two-interests": TwoInterests,
    "untied": Untied,
    "target-aware": TargetAware,
}
SYSTEMS: dict[str, type[Any]] = {"gru4rec": MODELS["gru4rec"], **SKELETONS}
"""With one of longrec's own that has no norm and no way past its mixers either."""


def register(monkeypatch: Any) -> None:
    """Put the skeletons into the registry until the test ends."""
    for name, model in SKELETONS.items():
        monkeypatch.setitem(MODELS, name, model)  # taken out again when the test ends
        del MODELS[name]
        register_model(name)(model)
