"""Models that break one thing each, and one that is right; not registered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from longrec.mixers import Context
from longrec.mixers.base import EMPTY
from longrec.mixers.hydra import HydraMixer
from longrec.models import MODELS, SequenceConfig, SequenceModel, register_model
from longrec.models.baselines import LastItem
from longrec.models.common.base import AddedRows, Model
from longrec.models.common.blocks import ResidualBlock


@dataclass(frozen=True)
class ToyConfig(SequenceConfig):
    """Settings of the toys."""

    layers: int = 1


class Right(SequenceModel):
    """A right model of one layer."""

    streaming = "exact"
    config_class = ToyConfig
    mixer_class: type[HydraMixer] = HydraMixer

    def __init__(self, config: ToyConfig, n_items: int) -> None:
        mixers = [self.mixer_class(config.dim, convolution=0) for _ in range(config.layers)]
        super().__init__(config, n_items, mixers, block=ResidualBlock)


class ReadsColumns(Right):
    """Right, too: it reads the types of events and a number."""

    reads_columns = ("type", "weight")

    def __init__(self, config: ToyConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.types = nn.Parameter(torch.randn(5, config.dim) * 0.1)
        self.weigh = nn.Linear(1, config.dim)

    def embed(self, items: Tensor, ctx: Context, masked: Tensor | None = None) -> Tensor:
        x = super().embed(items, ctx, masked)
        types = nn.functional.embedding((ctx.types + 1).clamp_max(4), self.types)
        return x + types + self.weigh(ctx.columns["weight"].to(x)[..., None])


class StepsWithoutColumns(ReadsColumns):
    def step(self, items: Tensor, state: Any, ctx: Context = EMPTY):
        nothing = {**ctx.columns, "weight": 0 * ctx.columns["weight"]}
        return super().step(items, state, replace(ctx, columns=nothing))


class IgnoredInterest(Right):
    def __init__(self, config: ToyConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.first, self.second = (nn.Linear(config.dim, config.dim) for _ in range(2))

    def user_vectors(self, h: Tensor) -> Tensor:
        return torch.stack([self.first(h), self.second(h).detach()], -2)


class SeesTheFuture(Right):
    def through_blocks(self, x: Tensor, ctx: Context, masked: Tensor | None = None) -> Tensor:
        return super().through_blocks(x, ctx, masked) + 1e-3 * x.mean(1, keepdim=True)


class SeesPadding(Right):
    def through_blocks(self, x: Tensor, ctx: Context, masked: Tensor | None = None) -> Tensor:
        return super().through_blocks(x, ctx, masked) * (1 + 1e-3 * x.shape[1])


class ForgettingMixer(HydraMixer):
    def prefill(self, x: Tensor, state: Any, ctx: Context = EMPTY):
        y, new = super().prefill(x, state, ctx)
        return y, new._replace(sum=new.sum * 0.999)


class Forgets(Right):
    mixer_class = ForgettingMixer


class Quadratic(Right):
    def through_blocks(self, x: Tensor, ctx: Context, masked: Tensor | None = None) -> Tensor:
        return super().through_blocks(x, ctx, masked) + 0 * x.new_ones(x.shape[1], x.shape[1]).sum()


class NotCausalAfterAll(Right):
    causal = False
    streaming = "none"


class ReadsTimes(Right):
    def embed(self, items: Tensor, ctx: Context, masked: Tensor | None = None) -> Tensor:
        x = super().embed(items, ctx, masked)
        return x if ctx.times is None else x * (1 + 1e-6 * ctx.times[..., None])


class Strided(Right):
    def __init__(self, config: ToyConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.turned = nn.Parameter(torch.randn(config.dim, 3).t())

    def readout(self, x: Tensor) -> Tensor:
        return super().readout(x) + self.turned.sum()


class InNoGroup(Right):
    def parameter_groups(self):
        return super().parameter_groups()[:1]


class OtherRows(Right):
    def item_vectors(self, items: Tensor | None = None) -> Tensor:
        vectors = super().item_vectors(items)
        return vectors if items is None else 2 * vectors


class ScoresPairsTogether(Right):
    def score_pairs(self, h: Tensor, items: Tensor) -> Tensor:
        scores = (h[:, None] * self.item_vectors(items)).sum(-1)
        return scores - scores.mean(1, keepdim=True)


class OnlyFloat32(Right):
    def readout(self, x: Tensor) -> Tensor:
        return super().readout(x).float()


class Overflows(Right):
    def user_vectors(self, h: Tensor) -> Tensor:
        return h[:, None] / 0


class TableOfItsOwn(Right):
    def __init__(self, config: ToyConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.popularity = nn.Parameter(torch.zeros(n_items + 1))

    def item_bias(self, items: Tensor | None = None) -> Tensor:
        return self.popularity if items is None else self.popularity[items]


class NotSaved(Right):
    def __init__(self, config: ToyConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.steps = 0

    def hidden(self, items: Tensor, ctx: Context = EMPTY, masked: Tensor | None = None) -> Tensor:
        self.steps += self.training
        return super().hidden(items, ctx, masked) * (1 + 0.01 * self.steps)


class LearnsNothing(Right):
    def readout(self, x: Tensor) -> Tensor:
        return 0 * super().readout(x)


class Crashes(Right):
    def through_blocks(self, x: Tensor, ctx: Context, masked: Tensor | None = None) -> Tensor:
        return x[:, 3.5]


class DecidesByData(Right):
    def embed(self, items: Tensor, ctx: Context, masked: Tensor | None = None) -> Tensor:
        x = super().embed(items, ctx, masked)
        return x + 0 if bool((items > 0).all()) else x


class MakesStates(Right):
    streaming = "none"

    def initial_state(self, batch: int) -> Any:
        return ()


class CountsTwice(LastItem):
    """Gives what followed the last item twice."""

    def rows(self, recent: Tensor) -> AddedRows:
        return AddedRows(*(torch.cat([part, part]) for part in super().rows(recent)))


def register(monkeypatch: Any, toy: type[Model]) -> str:
    """Put a toy into the registry until the test ends; the name it has there."""
    monkeypatch.setitem(MODELS, toy.__name__, toy)  # taken out again when the test ends
    del MODELS[toy.__name__]
    register_model(toy.__name__)(toy)
    return toy.__name__
