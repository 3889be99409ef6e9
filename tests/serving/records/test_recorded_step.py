"""The recorded step: whatever streams, it gives what `model.step` gives, event after event."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models.small_models import SEQUENCE, N, make
from torch import Tensor

from longrec.mixers import Context
from longrec.models import MODELS
from longrec.models.common.sequence import SequenceModel
from longrec.serving.records.record import RecordLayout, flat
from longrec.serving.records.recorded_step import StepProgram, Unrecordable

CASES = {name: {} for name in SEQUENCE if MODELS[name].streaming == "exact"} | {
    "elastic with a memory bank": {"memory_slots": 64, "memory_topk": 4, "memory_every": 5},
    "elastic by time": {"forgetting": "time"},
    "elastic without a convolution": {"convolution": 0},
    "hydrarec as published": {"normalise": "none", "convolution": 0},
    "hydrarec by count": {"normalise": "count"},
}


def layout_and_model(case: str) -> tuple[RecordLayout, SequenceModel]:
    model = make(case.split()[0], torch.float32, **CASES[case])
    assert isinstance(model, SequenceModel)
    with torch.no_grad():  # so that no part of the arithmetic is trivial
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return RecordLayout(model.initial_state(1), "cd" * 32), model


def events(number: int, batch: int, seed: int = 3) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    items = torch.randint(1, N + 1, (number, batch), generator=random)
    return items, torch.randint(0, 9000, (number, batch), generator=random).cumsum(0)


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("case", CASES)
def test_it_equals_the_step_for_80_events(case: str, batch: int) -> None:
    layout, model = layout_and_model(case)
    program = StepProgram(model, layout, batch)
    records, state = layout.load([None] * batch), model.initial_state(batch)
    rows = np.arange(batch)
    for item, time in zip(*events(80, batch), strict=True):
        with torch.inference_mode():
            if batch == 1:
                program.run_one(records, 0, int(item), int(time))
            else:
                program.run(records, rows, item.numpy(), time.numpy())
            state = model.step(item, state, Context(times=time))[1]
    for name, got, wanted in zip(
        layout.fields, flat(layout.state(records)), flat(state), strict=True
    ):
        assert got.isfinite().all() or name.endswith("time")
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5, msg=name)


@cache
def elastic_of_four() -> tuple[RecordLayout, SequenceModel, StepProgram]:
    layout, model = layout_and_model("elastic")
    return layout, model, StepProgram(model, layout, 4)


@given(rows=st.lists(st.integers(0, 8), min_size=1, max_size=4, unique=True))
def test_only_the_chosen_records_go_on(rows: list[int]) -> None:
    layout, model, program = elastic_of_four()
    records = layout.load([None] * 9)
    before = records.copy()
    items = np.arange(1, len(rows) + 1)
    with torch.inference_mode():
        program.run(records, np.array(rows), items, items)
    for row in range(9):
        if row in rows:
            assert records["count"][row] == 1
            alone = layout.load([None])
            with torch.inference_mode():
                state = model.step(
                    torch.tensor([rows.index(row) + 1]),
                    layout.state(alone),
                    Context(times=torch.tensor([1])),
                )[1]
            assert np.allclose(records["output"][row], state.output[0], atol=1e-5)
        else:
            assert records[row].tobytes() == before[row].tobytes()


class Deciding(torch.nn.Module):
    """A model whose step takes another way for some data."""

    def __init__(self, model: SequenceModel, by_shape: bool) -> None:
        super().__init__()
        self.model, self.by_shape = model, by_shape

    def step(self, items: Tensor, state, ctx: Context):
        if self.by_shape:
            if len((items > 3).nonzero()):
                items = items - 1
        elif items[0] > 3:
            items = items - 1
        return self.model.step(items, state, ctx)


@pytest.mark.parametrize("by_shape", [False, True])
def test_a_step_that_decides_by_its_data_is_not_recorded(by_shape: bool) -> None:
    layout, model = layout_and_model("hydrarec")
    with pytest.raises(Unrecordable):
        StepProgram(Deciding(model, by_shape), layout, 1)


class Counting(torch.nn.Module):
    """A model whose step writes into memory that no event is in: a buffer, or a new tensor."""

    def __init__(self, model: SequenceModel, in_buffer: bool) -> None:
        super().__init__()
        self.model, self.in_buffer = model, in_buffer
        self.register_buffer("steps", torch.zeros(1, dtype=torch.int64))

    def step(self, items: Tensor, state, ctx: Context):
        if self.in_buffer:
            times = ctx.times + self.steps.add_(1)
            return self.model.step(items, state, Context(times=times))
        return self.model.step(torch.zeros(1, dtype=torch.int64).add_(items), state, ctx)


@pytest.mark.parametrize("in_buffer", [False, True])
def test_a_step_that_changes_what_is_computed_once_is_not_recorded(in_buffer: bool) -> None:
    layout, model = layout_and_model("hydrarec")
    with pytest.raises(Unrecordable, match="computed once"):
        StepProgram(Counting(model, in_buffer), layout, 1)
