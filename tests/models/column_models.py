"""Tiny models whose scores depend on the types of events and on a weight; not registered.

typed           streams exactly; its blocks read types, its mixers the column "weight"
typed-window    reads the last events again
typed-masked    is trained on masked events
typed-elastic   explains
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from longrec.mixers import Context
from longrec.mixers.base import EMPTY, State
from longrec.mixers.hydra import HydraMixer
from longrec.models import MODELS, SequenceModel, register_model
from longrec.models.elastic import Elastic, ElasticConfig
from longrec.models.hydrarec import (
    HydraRecBidirectional,
    HydraRecBidirectionalConfig,
    HydraRecConfig,
)
from longrec.models.sasrec import SASRec, SASRecConfig

TYPES = 6
"""Rows of the table of types: no word, or one that is not known, is the first."""


class WeightedHydraMixer(HydraMixer):
    """Hydra attention to events times one and their weight."""

    reads_columns = ("weight",)

    def forward(self, x: Tensor, ctx: Context = EMPTY) -> Tensor:
        return super().forward(weighted(x, ctx), ctx)

    def prefill(self, x: Tensor, state: State, ctx: Context = EMPTY) -> tuple[Tensor, State]:
        return super().prefill(weighted(x, ctx), state, ctx)

    def step(self, x: Tensor, state: State, ctx: Context = EMPTY) -> tuple[Tensor, State]:
        return super().step(weighted(x, ctx), state, ctx)


def weighted(x: Tensor, ctx: Context) -> Tensor:
    assert ctx.columns is not None
    return x * (1 + ctx.columns["weight"]).to(x)[..., None]


class ReadsTypes(SequenceModel):
    """A vector of each type is added to the items'."""

    reads_columns = ("type",)

    def __init__(self, config: Any, n_items: int) -> None:
        super().__init__(config, n_items)  # type: ignore[call-arg]
        self.types = nn.Parameter(torch.randn(TYPES, config.dim))

    def embed(self, items: Tensor, ctx: Context, masked: Tensor | None = None) -> Tensor:
        assert ctx.types is not None
        return super().embed(items, ctx, masked) + self.types[(ctx.types + 1).clamp_max(TYPES - 1)]


class ReadsBoth(ReadsTypes):
    """The item's vector is multiplied by the weight, besides."""

    reads_columns = ("type", "weight")

    def embed(self, items: Tensor, ctx: Context, masked: Tensor | None = None) -> Tensor:
        return weighted(super().embed(items, ctx, masked), ctx)


class TypedBase(SequenceModel):
    def __init__(self, config: HydraRecConfig, n_items: int) -> None:
        mixers = [WeightedHydraMixer(config.dim) for _ in range(config.layers)]
        super().__init__(config, n_items, mixers)


class Typed(ReadsTypes, TypedBase):
    streaming = "exact"
    config_class = HydraRecConfig


class TypedWindow(ReadsBoth, SASRec):
    config_class = SASRecConfig


class TypedMasked(ReadsBoth, HydraRecBidirectional):
    config_class = HydraRecBidirectionalConfig


class TypedElastic(ReadsBoth, Elastic):
    config_class = ElasticConfig


COLUMN_MODELS = {
    "typed": Typed,
    "typed-window": TypedWindow,
    "typed-masked": TypedMasked,
    "typed-elastic": TypedElastic,
}


@contextmanager
def registered() -> Iterator[None]:
    """The models in the registry meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        for name, model in COLUMN_MODELS.items():
            patch.setitem(MODELS, name, model)  # taken out again at the end
            del MODELS[name]
            register_model(name)(model)
        yield
