"""Every registered mixer, in every example of its own, has the six properties of a mixer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mixers.definitions import EXAMPLES, examples_of

from longrec.checks import mixers as properties
from longrec.mixers import MIXERS, StreamingMixer

CASES = {f"{n}: {key}": make for n in MIXERS for key, make in examples_of(n).items()}
of = lambda wanted: [  # noqa: E731
    pytest.param(make, id=name)
    for name, make in CASES.items()
    if wanted(MIXERS[name.partition(":")[0]])
]
EVERY = pytest.mark.parametrize("make", of(lambda cls: True))
CAUSAL = pytest.mark.parametrize("make", of(lambda cls: cls.causal))
BIDIRECTIONAL = pytest.mark.parametrize("make", of(lambda cls: not cls.causal))
LINEAR = pytest.mark.parametrize("make", of(lambda cls: cls.linear))
STREAMING = of(lambda cls: issubclass(cls, StreamingMixer))


@EVERY
@pytest.mark.parametrize("length", properties.LENGTHS)
def test_equals_its_definition_in_float64(make, length):
    properties.check_definition(make, length, torch.float64)


@EVERY
@pytest.mark.parametrize("length", properties.LENGTHS)
def test_equals_its_definition_in_float32(make, length):
    properties.check_definition(make, length, torch.float32)


@pytest.mark.parametrize("make", STREAMING)
@pytest.mark.parametrize("length", properties.LENGTHS[1:])
def test_gradients_pass_through_the_state(make, length):
    properties.check_definition(make, length, torch.float64, split=True)


@CAUSAL
def test_no_output_depends_on_later_events(make):
    properties.check_causal(make)


@BIDIRECTIONAL
def test_every_output_depends_on_every_event(make):
    properties.check_sees_all(make)


@pytest.mark.parametrize("make", STREAMING)
@settings(max_examples=10)
@given(
    pieces=st.integers(1, 4).flatmap(
        lambda batch: st.lists(
            st.lists(st.integers(0, 40), min_size=batch, max_size=batch), min_size=1, max_size=4
        )
    ),
    steps=st.integers(0, 9),
)
def test_any_split_gives_what_forward_gives(make, pieces, steps):
    properties.check_splits(make, pieces, steps)


@EVERY
def test_no_events_leave_the_state_as_it_was(make):
    properties.check_no_events(make)


@pytest.mark.parametrize("make", STREAMING)
@pytest.mark.parametrize(("kind", "length"), [(torch.bfloat16, 1003), (torch.float16, 301)])
def test_half_precision_miscounts_nothing(make, kind, length):
    properties.check_half_precision(make, length, kind)


@EVERY
def test_rows_without_events_spoil_no_gradient(make):
    properties.check_empty_rows(make)


@EVERY
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_neighbours_and_padding_change_nothing(make, train):
    properties.check_neighbours(make, train)


@EVERY
@pytest.mark.parametrize("name", properties.EXTREMES)
def test_extreme_inputs_give_finite_numbers(make, name):
    properties.check_extremes(make, name)


@LINEAR
def test_cost_is_linear(make):
    properties.check_linear(make)


@pytest.mark.slow
@LINEAR
def test_a_million_events_give_finite_numbers(make):
    properties.check_long(make, 1_000_000)


def test_every_mechanism_is_registered():
    assert {"softmax", "banded", "dispatcher", "hydra"} <= set(MIXERS)
    assert {"softmax-bidirectional", "hydra-bidirectional"} <= set(MIXERS)
    assert set(EXAMPLES) <= set(MIXERS)
    assert all(cls.causal for cls in MIXERS.values() if issubclass(cls, StreamingMixer))
