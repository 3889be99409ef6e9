"""Steps of anybody's mixers in a stream: recorded or not, they give what the model's own gives."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from longrec.config.training import TrainConfig
from longrec.data.catalog import Catalog
from longrec.mixers import Context
from longrec.mixers.base import EMPTY, StreamingMixer
from longrec.models import SequenceModel
from longrec.models.common.config import FeedForwardConfig
from longrec.recommender import Recommender
from longrec.serving.records.engine import Engine
from longrec.serving.records.record import flat

N, DIM, EVENTS = 20, 8, 7
LONG = 100
"""Events that no history has which a record is compared on."""


class Three(NamedTuple):
    newest: Tensor
    before: Tensor
    oldest: Tensor


Rule = Callable[[nn.Module, Tensor, Three], Three]


class Ruled(StreamingMixer):
    """A mixer whose new state is a rule's, of what is read and of the old state."""

    linear = True

    def __init__(self, rule: Rule) -> None:
        super().__init__()
        self.p, self.rule, self.calls = nn.Linear(DIM, DIM), rule, 0
        self.register_buffer("rates", torch.full((DIM,), 0.4))

    def initial_state(self, batch: int) -> Three:
        zero = self.p.weight.new_zeros(batch, DIM)
        return Three(zero, zero.clone(), zero.clone())

    def prefill(self, x: Tensor, state: Three, ctx: Context = EMPTY) -> tuple[Tensor, Three]:
        ys, lengths = [], ctx.lengths
        for t in range(x.shape[1]):
            y, new = self.step(x[:, t], state, EMPTY)
            if lengths is not None:
                here = (t < lengths)[:, None]
                new = Three(*(torch.where(here, a, b) for a, b in zip(new, state, strict=True)))
            state = new
            ys.append(y)
        return torch.stack(ys, 1), state

    def step(self, x: Tensor, state: Three, ctx: Context = EMPTY) -> tuple[Tensor, Three]:
        self.calls += 1
        new = self.rule(self, self.p(x), state)
        return new.newest + 2 * state.before + state.oldest, new


class Toy(SequenceModel):
    name = "toy"
    streaming = "exact"


def moved_on(m: nn.Module, x: Tensor, s: Three) -> Three:
    return Three(x, s.newest, s.before)


def turned_round(m: nn.Module, x: Tensor, s: Three) -> Three:
    return Three(s.oldest + x, s.newest, s.before)


def exchanged(m: nn.Module, x: Tensor, s: Three) -> Three:
    return Three(s.before, s.newest, s.oldest + x)


def parts_of_others(m: nn.Module, x: Tensor, s: Three) -> Three:
    return Three(torch.cat([x[:, :4], s.newest[:, 4:]], 1), s.newest.flip(1), s.newest)


def twice(m: nn.Module, x: Tensor, s: Three) -> Three:
    new = s.oldest + x
    return Three(new, new, s.newest)


def in_its_own_place(m: nn.Module, x: Tensor, s: Three) -> Three:
    return Three(s.newest.lerp(x, m.rates), s.newest, s.before)


ALIASED = [moved_on, turned_round, exchanged, parts_of_others, twice, in_its_own_place]


def thirds(x: Tensor) -> Tensor:
    return torch.full_like(x, 0.3)


def of_x(change: Callable[[Tensor], Tensor]) -> Rule:
    return lambda m, x, s: Three(s.newest * 0.5 + change(x), s.before, s.oldest)


OPERATIONS = {
    "number to the power of a tensor": of_x(lambda x: 2.0 ** (-x.abs())),
    "power of one number": of_x(lambda x: 2.0 ** x.abs().amax(-1, keepdim=True)),
    "power by a tensor of the state": lambda m, x, s: Three(
        s.newest * m.rates ** s.before.abs() + x, x, s.oldest
    ),
    "square of integers": of_x(lambda x: ((4 * x).round().long() ** 2).float()),
    "division rounded down": of_x(lambda x: torch.div(x, 0.1, rounding_mode="floor")),
    "division truncated": of_x(lambda x: torch.div(x, thirds(x), rounding_mode="trunc")),
    "division of integers": of_x(lambda x: (8 * x).long() / 3),
    "mean in a type": of_x(lambda x: x * x.mean(-1, keepdim=True, dtype=torch.float64).float()),
    "sum in a type": of_x(lambda x: x * x.sum(-1, keepdim=True, dtype=torch.float64).float()),
    "sum of all": of_x(lambda x: x + 0 * x.sum()),
    "norm in a type": of_x(
        lambda x: x / torch.linalg.vector_norm(x.double(), dim=-1, keepdim=True).float()
    ),
    "types put together": of_x(lambda x: torch.cat([x[:, :4], x[:, 4:].double()], 1).float()),
    "added times a number": of_x(lambda x: torch.add(x, x.sign(), alpha=2)),
    "complex numbers": of_x(
        lambda x: torch.view_as_real(
            torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * (0.9 + 0.3j)
        ).flatten(-2)
    ),
    "half precision": of_x(lambda x: (x.bfloat16() * 2 + 1).float()),
    "largest of two, one being no number": of_x(lambda x: torch.maximum(x, x.log().nan_to_num())),
    "sorted": of_x(lambda x: x.sort(-1).values),
    "chosen": of_x(lambda x: torch.where(x > 0, x, 0.1 * x)),
}


def row_of_its_length(m: nn.Module, x: Tensor, s: Three) -> Three:
    rows = m.p.weight.repeat(13, 1)  # of LONG + 4 lengths
    return Three(nn.functional.embedding(s.oldest[:, 0].long(), rows) + x, x, s.oldest + 1)


def row_of_its_length_in_place(m: nn.Module, x: Tensor, s: Three) -> Three:
    rows = m.p.weight.repeat(13, 1)
    read = nn.functional.embedding(s.oldest[:, 0].long(), rows)
    return Three(read + x, x, s.oldest.add_(1))


class Odd:
    """Rules of which no record can be made, or a wrong one."""

    @staticmethod
    def by_its_data(m: nn.Module, x: Tensor, s: Three) -> Three:
        return Three(x if x.abs().sum() > 0 else -x, s.newest, s.before)

    @staticmethod
    def by_numpy(m: nn.Module, x: Tensor, s: Three) -> Three:
        return Three(torch.from_numpy(np.tanh(x.detach().numpy())), s.newest, s.before)

    @staticmethod
    def by_what_few_histories_have(m: nn.Module, x: Tensor, s: Three) -> Three:
        past = max(s.oldest[:, 0].tolist()) > LONG
        return Three(-x if past else x, s.newest, s.oldest + 1)

    @staticmethod
    def by_an_array_of_it(m: nn.Module, x: Tensor, s: Three) -> Three:
        past = np.asarray(s.oldest).max() > LONG
        return Three(-x if past else x, s.newest, s.oldest + 1)

    @staticmethod
    def not_while_recorded(m: nn.Module, x: Tensor, s: Three) -> Three:
        if torch.utils._python_dispatch._get_current_dispatch_mode() is not None:
            raise ZeroDivisionError("not now")
        return Three(x, s.newest, s.before)


def recommender(rule: Rule) -> Recommender:
    torch.manual_seed(0)
    config = FeedForwardConfig(dim=DIM, ffn_dim=16, dropout=0.0, layers=1)
    model = Toy(config, N, [Ruled(rule)]).eval()
    with torch.no_grad():
        model.items.mul_(20)
    catalog = Catalog(pl.Series("item", np.arange(N)), np.ones(N, np.int64))
    return Recommender("toy", model, config, TrainConfig(), catalog)


def compare(rule: Rule, users: int) -> Engine:
    """A stream's engine beside the model's own step, event after event."""
    rec = recommender(rule)
    engine = Engine(rec)
    records, state = engine.layout.load([None] * users), rec.model.initial_state(users)
    for n in range(EVENTS):
        items = (np.arange(users) * 3 + n) % N + 1
        engine.advance(records, [[(int(item), 100 + n)] for item in items])
        ctx = Context(times=torch.full((users,), 100 + n))
        with torch.inference_mode():
            state = rec.model.step(torch.from_numpy(items), state, ctx)[1]
    for name, wanted in zip(engine.layout.fields, flat(state), strict=True):
        np.testing.assert_allclose(records[name], wanted.numpy(), 1e-4, 1e-5, err_msg=name)
    return engine


@pytest.mark.parametrize("users", [1, 40])
@pytest.mark.parametrize("rule", ALIASED, ids=lambda rule: rule.__name__)
def test_a_new_state_may_hold_tensors_of_the_old_one(rule: Rule, users: int) -> None:
    assert compare(rule, users)._programs is not None, "it can be recorded, so it should be"


@pytest.mark.parametrize("users", [1, 40])
@pytest.mark.parametrize("name", OPERATIONS)
def test_forms_of_operations_that_numpy_has_not_are_pytorchs(name: str, users: int) -> None:
    assert compare(OPERATIONS[name], users)._programs is not None, "slower for no reason"


@pytest.mark.parametrize("name", [name for name in vars(Odd) if name[0] != "_"])
@pytest.mark.parametrize("users", [1, 40])
def test_what_cannot_be_recorded_is_the_models_own_step_and_a_line_of_the_log(
    name: str, users: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "longrec"):
        engine = compare(getattr(Odd, name), users)
    assert engine._programs is None
    [line] = caplog.records
    assert "toy: its step is not recorded" in line.getMessage()
    assert "\n" not in line.getMessage()


@pytest.mark.parametrize("users", [1, 40])
def test_a_row_that_there_is_none_of_is_refused_as_by_the_step_itself(users: int) -> None:
    engine = Engine(recommender(row_of_its_length))
    assert engine._programs is not None
    records = engine.layout.load([None] * users)
    for row in (LONG + 4, -1):
        records["layers.0.oldest"] = row
        with pytest.raises(IndexError):
            engine.advance(records, [[(1, 0)]] * users)


def test_a_record_that_gives_other_numbers_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As if the recorder knew an operation wrongly, or the step kept something beside its state."""
    from longrec.serving.records import numpy_ops

    def wrong(out: Tensor, *operands: Tensor, **_: object) -> Callable[[], object]:
        return lambda: out.copy_(operands[0])

    monkeypatch.setitem(numpy_ops.FAST, "add", wrong)
    engine = compare(moved_on, 1)
    assert engine._programs is None
    assert "another than by the step itself" in caplog.text
    monkeypatch.undo()
    caplog.clear()

    def by_a_counter(m: nn.Module, x: Tensor, s: Three) -> Three:
        m.calls += 1
        return Three(x + m.calls, s.newest, s.before)

    assert Engine(recommender(by_a_counter))._programs is None
    assert len(caplog.records) == 1


def test_places_that_nobody_has_now_do_not_end_the_step_of_others() -> None:
    """A step that changes what it is given goes on in them, until there is no such row."""
    engine = Engine(recommender(row_of_its_length_in_place))
    assert engine._programs is not None
    everybody = engine.layout.load([None] * 20)
    engine.advance(everybody, [[(1, 0)]] * 20)
    for _ in range(LONG + 6):
        records = engine.layout.load([None] * 6)
        engine.advance(records, [[(1, 0)]] * 6)
        got, wanted = records["layers.0.newest"], everybody["layers.0.newest"][:6]
        np.testing.assert_allclose(got, wanted, 1e-5, 1e-6)
