"""A user of a million events has the scores of float64: one item, a playlist, any, popular ones.

Sums are the danger. An event is a millionth of them at last, float32 keeps twenty-four bits, and
what it rounds off is the same each time where events repeat themselves.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from models.small_models import N
from serving.records.engines import CASES, recommender

from longrec.mixers import Context
from longrec.mixers.dispatcher import DispatcherState
from longrec.mixers.dispatcher_memory import MemoryState
from longrec.mixers.hydra import HydraState
from longrec.models.common.sequence import SequenceModel, UserState
from longrec.serving.records.engine import Engine

MILLION = 1_000_000
TOLERANCE = 1e-4
"""Largest difference of a score, in standard deviations of the user's scores."""
FORGETTING_EACH_TIME = np.array([2e-4, 1e-4, 1e-4, 1e-4])
"""Where experts forget at each event their means are float32, and stop short of an item that is
repeated for ever (docs/decisions, on sums that last)."""
LASTING = {
    "hydrarec": {},
    "hydrarec by count": {"normalise": "count"},
    "hydrarec as published": {"normalise": "none", "convolution": 0},
    "elastic without forgetting": {},
    "elastic and a bank without forgetting": {
        "forgetting": "none",
        "memory_slots": 64,
        "memory_topk": 4,
    },
}
"""Models of which nothing that a user did is ever forgotten."""


def lives(events: int) -> tuple[np.ndarray, np.ndarray]:
    """Items (4, events) of four histories, and times (events,), a minute apart on average."""
    random = np.random.default_rng(events)
    chance = 1 / np.arange(1, N + 1)
    items = [
        np.full(events, 7),
        np.resize(random.permutation(N)[:12] + 1, events),
        random.integers(1, N + 1, events),
        random.choice(N, events, p=chance / chance.sum()) + 1,
    ]
    return np.stack(items), random.integers(0, 120, events).cumsum()


def both(case: str) -> tuple[Engine, SequenceModel]:
    """A model at work on records, and the same in float64."""
    settings = LASTING.get(case, {})
    model = recommender(case, torch.float64, **settings).model
    assert isinstance(model, SequenceModel)
    return Engine(recommender(case, **settings)), model


def prefill(
    model: SequenceModel, state: UserState, items: np.ndarray, times: np.ndarray, window: int = 8192
) -> UserState:
    """The state after more events, read in parallel."""
    with torch.inference_mode():
        for begin in range(0, len(times), window):
            now = slice(begin, begin + window)
            ctx = Context(times=torch.from_numpy(times[now]).expand(len(items), -1))
            state = model.prefill(torch.from_numpy(items[:, now]), state, ctx)[1]
    return state


def step(engine: Engine, records: np.ndarray, items: np.ndarray, times: np.ndarray) -> None:
    """Each event by itself, as a stream takes it in."""
    for column, time in zip(items.T.tolist(), times.tolist(), strict=True):
        engine.advance(records, [[(item, time)] for item in column])


def differences(model: SequenceModel, got: torch.Tensor, wanted: torch.Tensor) -> np.ndarray:
    """Per history the largest difference of a score, in standard deviations."""
    with torch.inference_mode():
        found, right = model.score(got.double())[:, 1:], model.score(wanted)[:, 1:]
        difference: np.ndarray = ((found - right).abs().amax(1) / right.std(1)).numpy()
    return difference


def lived_again(state, times: int):
    """A state after as many lives like the one that it is of: for sums it is a product."""
    match state:
        case HydraState():
            return state._replace(sum=state.sum * times, count=state.count * times)
        case DispatcherState():
            return state._replace(log_weight=state.log_weight + math.log(times))
        case MemoryState():
            experts = lived_again(state.experts, times)
            return state._replace(experts=experts, count=state.count * times)
        case UserState():
            layers = tuple(lived_again(layer, times) for layer in state.layers)
            return state._replace(layers=layers, count=state.count * times)


@pytest.mark.parametrize(
    "case", ["hydrarec", "hydrarec as published", "elastic without forgetting"]
)
def test_steps_after_a_million_events_lose_nothing(case: str) -> None:
    """Few steps, so that what each of them loses is what is measured: in float32 over 7e-6."""
    engine, model = both(case)
    items, times = lives(600)
    earlier = np.random.default_rng(3).integers(1, N + 1, (4, 1000))
    state = prefill(model, model.initial_state(4), earlier, np.zeros(1000, np.int64))
    state = lived_again(state, MILLION // 1000)
    records = engine.layout.load([None] * 4)
    engine.layout.write(records, state)
    step(engine, records, items, times)
    assert (records["count"] == MILLION + 600).all()
    wanted = prefill(model, state, items, times).output
    assert (differences(model, engine.read(records), wanted) < 3e-6).all()


@pytest.mark.parametrize(
    ("case", "window"),
    [
        pytest.param("hydrarec", 4096, marks=pytest.mark.slow),
        pytest.param("hydrarec", MILLION, marks=pytest.mark.long),
        pytest.param("elastic without forgetting", 4096, marks=pytest.mark.long),
    ],
)
def test_a_million_events_in_windows(case: str, window: int) -> None:
    engine, model = both(case)
    items, times = lives(MILLION)
    wanted = prefill(model, model.initial_state(4), items, times).output
    low = engine.model
    assert isinstance(low, SequenceModel)
    if window < MILLION:
        got = prefill(low, low.initial_state(4), items, times, window).output
    else:  # as training and evaluation read it, history by history
        with torch.inference_mode():
            got = torch.cat([low.encode(torch.from_numpy(row[None]))[:, -1] for row in items])
    assert (differences(model, got, wanted) < TOLERANCE).all()


@pytest.mark.slow
@pytest.mark.parametrize("case", [*CASES, *LASTING])
def test_a_long_life_in_steps(case: str) -> None:
    check_life_in_steps(case, 2_000)


@pytest.mark.long
@pytest.mark.timeout(7200)  # four million events one by one
@pytest.mark.parametrize("case", ["elastic", *LASTING])
def test_a_million_events_in_steps(case: str) -> None:
    check_life_in_steps(case, MILLION)


def check_life_in_steps(case: str, events: int) -> None:
    """Each event by itself, one after the other, against one pass in float64 over all of them."""
    engine, model = both(case)
    items, times = lives(events)
    records = engine.layout.load([None] * 4)
    step(engine, records, items, times)
    assert (records["sequence"] == events).all()
    wanted = prefill(model, model.initial_state(4), items, times).output
    forgets = case in ("elastic", "elastic with a memory bank")
    allowed = FORGETTING_EACH_TIME if forgets else TOLERANCE
    assert (differences(model, engine.read(records), wanted) < allowed).all()
