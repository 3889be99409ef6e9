"""The dispatcher as it is on CUDA, a reference in the kernel's place: all properties of a mixer."""

from __future__ import annotations

import pytest
import torch
from mixers.definitions import examples_of
from ops.test_dispatcher_cuda import gated_slots

from longrec.checks import mixers as properties
from longrec.mixers import dispatcher
from longrec.ops import dispatcher_cuda

EXAMPLES = examples_of("dispatcher")
each_example = pytest.mark.parametrize("name", list(EXAMPLES))


@pytest.fixture(autouse=True)
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many events the kernel was given, call by call; every tensor is for it."""
    found: list[int] = []

    def called(*given, **more):
        found.append(given[0].shape[1])
        return gated_slots(*given, **more)

    monkeypatch.setattr(dispatcher_cuda, "load_kernel", lambda: called)
    monkeypatch.setattr(dispatcher_cuda, "SEGMENT", 16)
    monkeypatch.setattr(dispatcher_cuda, "BLOCK", 5)
    monkeypatch.setattr(dispatcher, "kernel_dtype", lambda x: x.dtype)
    return found


@each_example
@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("length", [2, 7, 33, 50])
def test_it_equals_its_definition(name, length, split, calls):
    properties.check_definition(EXAMPLES[name], length, torch.float64, split=split)
    assert calls


@each_example
def test_it_is_causal_and_history_by_history_as_alone(name, calls):
    properties.check_causal(EXAMPLES[name])
    properties.check_empty_rows(EXAMPLES[name])
    for train in (False, True):
        calls.clear()
        properties.check_neighbours(EXAMPLES[name], train)
        assert calls
    properties.check_splits(EXAMPLES[name], [[3, 0, 20], [5, 40, 1]], steps=3)


@each_example
@pytest.mark.parametrize("extreme", list(properties.EXTREMES))
def test_extremes_give_no_nan(name, extreme):
    properties.check_extremes(EXAMPLES[name], extreme)
