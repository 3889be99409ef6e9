"""Rows that are updated late end where rows that are updated in every step end."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import embedding
from torch.utils._python_dispatch import TorchDispatchMode
from training.plain_rows import PlainRows

from longrec.training import rows as module
from longrec.training.rows import RowAdam

BETAS = (0.9, 0.98)
EXACT = {"rtol": 1e-11, "atol": 1e-13}  # in float64


def schedule(number: int) -> tuple[float, float]:
    """A learning rate that warms up and then waves, and the decay of a moving average."""
    lr = 0.05 * min(1.0, (number + 1) / 6) * (1 + 0.5 * math.sin(number))
    return lr, min(0.97, (1 + number) / (10 + number))


def pair(
    size: int, width: int, weight_decay: float, kind=torch.float64
) -> tuple[PlainRows, RowAdam]:
    torch.manual_seed(size)
    table = torch.randn(size, width, dtype=kind)
    lazy = RowAdam(table.clone(), table.clone(), *BETAS, weight_decay)
    return PlainRows(table.clone(), table.clone(), *BETAS, weight_decay), lazy


def same(lazy: RowAdam, dense: PlainRows, **tolerance: float) -> None:
    for name in ("table", "average", "first", "second"):
        wanted = getattr(dense, name)
        torch.testing.assert_close(
            getattr(lazy, name), wanted, msg=lambda text, n=name: f"{n}: {text}", **tolerance
        )


def touch(size: int, width: int, kind=torch.float64) -> tuple[Tensor, Tensor]:
    """Random rows, perhaps none, and gradients for them."""
    rows = torch.randperm(size)[: torch.randint(0, size // 2, ())]
    return rows, torch.randn(len(rows), width, dtype=kind)


@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [
        (torch.float64, {"rtol": 1e-12, "atol": 1e-13}),
        (torch.float32, {"rtol": 1e-5, "atol": 1e-6}),
    ],
)
def test_touching_every_row_is_torchs_adamw(kind, tolerance):
    torch.manual_seed(0)
    table = torch.randn(7, 5, dtype=kind)
    mine, averaged = table.clone(), table.clone()
    lazy = RowAdam(mine, averaged, *BETAS, 0.1)
    parameter, average = torch.nn.Parameter(table.clone()), table.clone()
    adam = torch.optim.AdamW([parameter], betas=BETAS, weight_decay=0.1, fused=True)
    for number in range(60):
        lr, decay = schedule(number)
        parameter.grad = torch.randn_like(table)
        adam.param_groups[0]["lr"] = lr
        lazy.step(torch.arange(7), parameter.grad, number, lr, decay)
        adam.step()
        average.lerp_(parameter.detach(), 1 - decay)
    state = adam.state[parameter]
    for found, wanted in [
        (mine, parameter.detach()),
        (averaged, average),
        (lazy.first, state["exp_avg"]),
        (lazy.second, state["exp_avg_sq"]),
    ]:
        torch.testing.assert_close(found, wanted, **tolerance)


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_random_touches_are_the_stated_rule(weight_decay):
    dense, lazy = pair(23, 4, weight_decay)
    for number in range(150):
        rows, gradient = touch(23, 4)
        lazy.step(rows, gradient, number, *schedule(number))
        dense.step(rows, gradient, number, *schedule(number))
        if number in (0, 40, 41, 90):  # validations
            lazy.settle()
            same(lazy, dense, **EXACT)
    late = lazy.marks < lazy.steps
    assert late.any()
    assert not torch.equal(lazy.average[late], dense.average[late])
    assert torch.equal(~late, (lazy.marks == lazy.steps))
    torch.testing.assert_close(lazy.table[~late], dense.table[~late], **EXACT)
    lazy.settle()
    same(lazy, dense, **EXACT)
    lazy.settle()
    same(lazy, dense, **EXACT)


def test_float32_does_not_drift():
    """A thousand small decays, one by one or at once, keep their size, and so do averages."""
    dense, lazy = pair(3, 8, 0.01, torch.float32)
    exact = PlainRows(dense.table.double(), dense.average.double(), *BETAS, 0.01)
    for number in range(1000):
        rows = torch.tensor([number % 2]) if number < 500 or number % 7 else torch.arange(3)
        gradient = torch.zeros(len(rows), 8)
        lazy.step(rows, gradient, number, 1e-3, 0.999)
        exact.step(rows, gradient.double(), number, 1e-3, 0.999)
    lazy.settle()
    torch.testing.assert_close(lazy.table.double(), exact.table, rtol=1.2e-5, atol=0)
    torch.testing.assert_close(lazy.average.double(), exact.average, rtol=1.2e-5, atol=0)


@settings(max_examples=40, deadline=None)
@given(
    plan=st.lists(st.sets(st.integers(0, 5)) | st.just("settle"), max_size=25),
    weight_decay=st.sampled_from([0.0, 0.01, 5.0]),
    decay=st.sampled_from([0.0, 0.5, 0.999]),
)
def test_any_plan_of_touches_is_the_stated_rule(plan, weight_decay, decay):
    dense, lazy = pair(6, 3, weight_decay)
    number = 0
    for touched in plan:
        if touched == "settle":
            lazy.settle()
            continue
        rows = torch.tensor(sorted(touched), dtype=torch.int64)
        gradient = torch.randn(len(rows), 3, dtype=torch.float64)
        for each in (lazy, dense):
            each.step(rows, gradient, number, schedule(number)[0], decay)
        number += 1
    lazy.settle()
    same(lazy, dense, **EXACT)


@settings(max_examples=40, deadline=None)
@given(
    plan=st.lists(st.tuples(st.lists(st.integers(0, 5)), st.sets(st.integers(0, 5))), max_size=25),
    weight_decay=st.sampled_from([0.0, 0.01, 5.0]),
)
def test_rows_that_were_refreshed_are_read_up_to_date(plan, weight_decay):
    """Read rows, some of them twice, are not the rows that are touched then."""
    dense, lazy = pair(6, 3, weight_decay)
    for number, (read, touched) in enumerate(plan):
        lazy.refresh(torch.tensor(read, dtype=torch.int64))
        for name in ("table", "average", "first", "second"):
            found, wanted = getattr(lazy, name)[read], getattr(dense, name)[read]
            torch.testing.assert_close(found, wanted, **EXACT)
        rows = torch.tensor(sorted(touched), dtype=torch.int64)
        gradient = torch.randn(len(rows), 3, dtype=torch.float64)
        for each in (lazy, dense):
            each.step(rows, gradient, number, *schedule(number))
    lazy.settle()
    same(lazy, dense, **EXACT)


def test_without_momentum_no_first_moment_is_kept():
    dense, lazy = pair(9, 3, 0.3)
    dense.beta1, lazy = 0.0, RowAdam(lazy.table, lazy.average, 0.0, BETAS[1], 0.3)
    for number in range(40):
        rows, gradient = touch(9, 3)
        for each in (lazy, dense):
            each.step(rows, gradient, number, *schedule(number))
    lazy.settle()
    assert lazy.first.numel() == 0
    for name in ("table", "average", "second"):
        torch.testing.assert_close(getattr(lazy, name), getattr(dense, name), **EXACT)


def test_what_is_kept_is_bounded(monkeypatch):
    """The table settles itself before the history is full, or C is too small for exact digits."""
    monkeypatch.setattr(module, "STEPS", 7)
    monkeypatch.setattr(module, "BLOCK", 4)
    settled = []
    monkeypatch.setattr(
        RowAdam, "settle", lambda self, old=RowAdam.settle: (settled.append(self.steps), old(self))
    )
    dense, lazy = pair(11, 3, 1.0)
    for number in range(40):
        rows, gradient = touch(11, 3)
        lr = 0.9 if 20 <= number < 30 else 0.01  # C falls to a tenth at each step
        for each in (lazy, dense):
            each.step(rows, gradient, number, lr, 0.99)
        assert lazy.now[0] >= module.SMALLEST_C
    assert settled[:2] == [7, 7]
    assert min(settled) < 7
    lazy.settle()
    same(lazy, dense, **EXACT)


def test_a_loaded_state_goes_on_bit_for_bit():
    _, lazy = pair(40, 4, 0.1, torch.float32)
    plan = [touch(40, 4, torch.float32) for _ in range(30)]
    for number, (rows, gradient) in enumerate(plan[:17]):
        lazy.step(rows, gradient, number, *schedule(number))
    saved = {name: tensor.clone() for name, tensor in lazy.tensors().items()}
    other = RowAdam(lazy.table.clone(), lazy.average.clone(), *BETAS, 0.1)
    other.load(saved)
    for number, (rows, gradient) in enumerate(plan[17:], 17):
        for each in (lazy, other):
            each.step(rows, gradient, number, *schedule(number))
    for each in (lazy, other):
        each.settle()
    for name in ("table", "average", "first", "second", "marks"):
        assert torch.equal(getattr(lazy, name), getattr(other, name)), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("second"), "not .*second"),
        (lambda state: state.update(first=torch.zeros(3, 4)), r"first is .*\(3, 4\), not .*\(5, 4"),
        (lambda state: state.update(marks=torch.zeros(5)), "marks is torch.float32"),
        (lambda state: state.update(history=torch.zeros(0, 3).double()), "history is"),
        (lambda state: state.update(marks=torch.full((5,), 9, dtype=torch.int32)), "marks lie"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(change, message):
    _, lazy = pair(5, 4, 0.1)
    lazy.step(*touch(5, 4), 0, 0.1, 0.5)
    state = dict(lazy.tensors())
    change(state)
    with pytest.raises(ValueError, match=message):
        pair(5, 4, 0.1)[1].load(state)


def test_a_decay_of_all_weights_is_refused():
    _, lazy = pair(5, 4, 2.0)
    with pytest.raises(ValueError, match=r"learning_rate 0.5 times weight_decay 2.0 is 1.0"):
        lazy.step(*touch(5, 4), 0, 0.5, 0.5)


class Sizes(TorchDispatchMode):
    """Elements of the largest dense tensor made, and what was done in place on larger ones."""

    def __init__(self) -> None:
        super().__init__()
        self.largest, self.in_place = 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {id(x) for x in args if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if not isinstance(tensor, Tensor) or tensor.is_sparse:
                continue
            if id(tensor) in given:
                if tensor.numel() > 5000:
                    self.in_place.add(func.overloadpacket.__name__)
            elif not func.is_view:
                self.largest = max(self.largest, tensor.numel())
        return out


def test_a_step_handles_only_what_it_touches():
    size = 1 << 16
    table = torch.nn.Parameter(torch.randn(size, 8))
    lazy = RowAdam(table, table.detach().clone(), *BETAS, 0.01)
    read = torch.randint(size, (50,))
    for number in range(2):
        with Sizes() as counted:
            lazy.refresh(read)
            embedding(read, table, sparse=True).square().sum().backward()
            gradient = table.grad.coalesce()
            lazy.step(gradient.indices()[0], gradient.values(), number, 0.01, 0.9)
        table.grad = None
        assert 0 < counted.largest <= 50 * 8
        assert counted.in_place == {"index_copy_"}
    with Sizes() as counted:
        lazy.settle()
    assert counted.largest <= module.BLOCK * 8
    assert lazy.marks.dtype == torch.int32
