"""A test of the property tests: each property fails for a mixer that lacks it, and only then."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from mixers.definitions import examples_of
from torch import Tensor, nn

from longrec.checks import mixers as properties
from longrec.checks.definitions import Defined, define
from longrec.mixers import MIXERS, Context, Mixer, StreamingMixer, register_mixer
from longrec.mixers.base import EMPTY


class Total(NamedTuple):
    """Sum so far, (B, D)."""

    total: Tensor


class Sums(StreamingMixer):
    """y_t = W sum_{u<=t} x_u: a right mixer, of which the others below break one thing each."""

    linear = True

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.output = nn.Linear(dim, dim, bias=False)

    def initial_state(self, batch: int) -> Total:
        return Total(self.output.weight.new_zeros(batch, len(self.output.weight)))

    def sums(self, x: Tensor) -> Tensor:
        return x.cumsum(1)

    def prefill(self, x: Tensor, state, ctx: Context = EMPTY):
        mask = ctx.mask(x)
        sums = state.total[:, None] + self.sums(x if mask is None else x * mask[..., None])
        return self.output(sums), Total(torch.cat([state.total[:, None], sums], 1)[:, -1])

    def step(self, x: Tensor, state, ctx: Context = EMPTY):
        new = state.total + x
        return self.output(new), Total(new)


@define.register
def _(mixer: Sums, x: Tensor, times: Tensor) -> Defined:
    total, rows = torch.zeros_like(x[0]), []
    for event in x:
        total = total + event
        rows.append(total @ mixer.output.weight.t())
    return torch.stack(rows), Total(total[None])


class Leaking(Sums):
    def forward(self, x: Tensor, ctx: Context = EMPTY) -> Tensor:
        return super().forward(x, ctx) + 1e-3 * x.mean(1, keepdim=True)


class Quadratic(Sums):
    def sums(self, x: Tensor) -> Tensor:
        return torch.ones(x.shape[1], x.shape[1], dtype=x.dtype).tril() @ x


class KeepsPadding(Sums):
    def prefill(self, x: Tensor, state, ctx: Context = EMPTY):
        return super().prefill(x, state)


class WrongStep(Sums):
    def step(self, x: Tensor, state, ctx: Context = EMPTY):
        return super().step(x * 1.000001, state)


class CutsGradient(Sums):
    def sums(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, :1], x[:, :1].detach() + x[:, 1:].cumsum(1)], dim=1)


class CutsState(Sums):
    def prefill(self, x: Tensor, state, ctx: Context = EMPTY):
        return super().prefill(x, Total(state.total.detach()), ctx)


class ReadsUnwritten(Sums):
    def sums(self, x: Tensor) -> Tensor:
        return super().sums(x) + 0 * torch.empty_like(x)


class Overflows(Sums):
    def sums(self, x: Tensor) -> Tensor:
        return super().sums(x) * (x.square().square() / x.square().square())


class DependsOnMode(Sums):
    def sums(self, x: Tensor) -> Tensor:
        return super().sums(x) + (x.shape[0] - 1) * 1e-6


class SumsNotCausal(Sums):
    causal = False


class NeedsEvents(Sums):
    def prefill(self, x: Tensor, state, ctx: Context = EMPTY):
        y, _ = super().prefill(x, state, ctx)
        return y, Total(state.total + x.mean(1) * x.shape[1])


class CountsInHalf(Sums):
    """The last event alone, found by a number of events in the type of x."""

    def prefill(self, x: Tensor, state, ctx: Context = EMPTY):
        ends = x.new_full((len(x),), x.shape[1]) if ctx.lengths is None else ctx.lengths
        return x, Total(x[torch.arange(len(x)), ends.long() - 1])

    def step(self, x: Tensor, state, ctx: Context = EMPTY):
        return x, Total(x)


class Mean(Mixer):
    """y_t = W (x_t + mean of x over the history): a right bidirectional mixer."""

    causal, linear = False, True

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.output = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, ctx: Context = EMPTY) -> Tensor:
        count, mask = torch.tensor([[x.shape[1]]]), ctx.mask(x)
        if mask is not None:
            x, count = x * mask[..., None], mask.sum(1, keepdim=True)
        return self.output(x + self.mean(x, count))

    def mean(self, x: Tensor, count: Tensor) -> Tensor:
        return (x.sum(1) / count.clamp_min(1))[:, None]


@define.register
def _(mixer: Mean, x: Tensor, times: Tensor) -> Defined:
    return torch.stack([(event + sum(x) / len(x)) @ mixer.output.weight.t() for event in x]), None


class MeanOfPadding(Mean):
    def forward(self, x: Tensor, ctx: Context = EMPTY) -> Tensor:
        return super().forward(x, EMPTY)


class MeanOfNothing(Mean):
    def mean(self, x: Tensor, count: Tensor) -> Tensor:
        return (x.sum(1) / count)[:, None]


def every_property(make) -> None:
    properties.check_definition(make, 33, torch.float64)
    if issubclass(make, StreamingMixer):
        properties.check_definition(make, 33, torch.float64, split=True)
        properties.check_causal(make)
        properties.check_splits(make, [[3, 0, 9], [0, 5, 1]], steps=2)
    else:
        properties.check_sees_all(make)
    properties.check_no_events(make)
    properties.check_empty_rows(make)
    for train in (True, False):
        properties.check_neighbours(make, train)
    for name in properties.EXTREMES:
        properties.check_extremes(make, name)
    properties.check_linear(make)


@pytest.mark.parametrize("toy", [Sums, Mean])
def test_a_right_mixer_passes(toy) -> None:
    every_property(toy)


BROKEN = [
    (Leaking, lambda make: properties.check_causal(make), "outputs before event"),
    (Leaking, lambda make: properties.check_neighbours(make, False), "padded"),
    (Quadratic, lambda make: properties.check_linear(make, 64), "operations grow as T"),
    (
        KeepsPadding,
        lambda make: properties.check_splits(make, [[3, 1], [2, 4]], 0),
        "of row 1|state.total",
    ),
    (KeepsPadding, lambda make: properties.check_splits(make, [[3, 0]], 1), "without events"),
    (WrongStep, lambda make: properties.check_splits(make, [[3]], 2), "of row 0"),
    (CutsGradient, lambda m: properties.check_definition(m, 7, torch.float64), "gradient of input"),
    (
        CutsState,
        lambda make: properties.check_definition(make, 7, torch.float64, split=True),
        "gradient of input",
    ),
    (
        ReadsUnwritten,
        lambda m: properties.check_definition(m, 7, torch.float64),
        "output: relative error nan",
    ),
    (Overflows, lambda make: properties.check_extremes(make, "huge"), "huge: outputs"),
    (Overflows, lambda make: properties.check_extremes(make, "zeros"), "zeros: outputs"),
    (DependsOnMode, lambda make: properties.check_neighbours(make, True), "padded"),
    (SumsNotCausal, properties.check_sees_all, "event 16 does not change every output"),
    (MeanOfPadding, lambda make: properties.check_neighbours(make, False), "row 0 padded"),
    (NeedsEvents, properties.check_no_events, "not as it was before no events"),
    (CountsInHalf, lambda make: properties.check_half_precision(make, 257), "state.total"),
    (MeanOfNothing, properties.check_empty_rows, "without events are not finite"),
]


@pytest.mark.parametrize(
    ("toy", "check", "message"), BROKEN, ids=[f"{b[0].__name__}-{n}" for n, b in enumerate(BROKEN)]
)
def test_a_broken_mixer_fails(toy, check, message) -> None:
    with pytest.raises(AssertionError, match=message):
        check(toy)


def test_the_cost_of_softmax_is_seen_to_be_quadratic() -> None:
    assert properties.exponents(examples_of("softmax")["one head"], 128)["operations"] > 1.5


def test_a_name_is_registered_once(monkeypatch) -> None:
    monkeypatch.setattr(MIXERS, "data", {})
    register_mixer("toy")(Sums)
    with pytest.raises(ValueError, match="'toy' is registered already"):
        register_mixer("toy")(Sums)


def test_float32_states_stay_near_float64_over_20_000_events() -> None:
    for name in ("dispatcher", "hydra"):
        for make in examples_of(name).values():
            x, times = properties.events(20_000)
            exact, single = (properties.build(make, kind=k) for k in (torch.float64, torch.float32))
            outputs = []
            with torch.no_grad():
                for mixer in (exact, single):
                    mixer.load_state_dict(single.state_dict())
                    state = mixer.initial_state(1)
                    kind = next(mixer.parameters()).dtype
                    for x_part, t_part in zip(x.split(1024), times.split(1024), strict=True):
                        ctx = Context(times=t_part[None])
                        y, state = mixer.prefill(x_part[None].to(kind), state, ctx)
                    outputs.append(y)
            properties.same(f"{name} after 20,000 events", outputs[1], outputs[0], 1e-4)
