"""A store under a service survives crashes by the hundred; the same seed does the same again."""

from __future__ import annotations

import pytest
from simulation.crashes import survive

SEEDS = 3
"""Of each durability in the fast suite."""


@pytest.mark.parametrize("durability", ["power", "process"])
def test_what_was_acknowledged_survives(durability) -> None:
    for seed in range(SEEDS):
        survive(seed, durability)


def test_a_seed_does_the_same_again() -> None:
    first, again = (survive(1, "power", lives=2, crashes=10) for _ in range(2))
    assert first == again
    assert first.counts.total() == 20


@pytest.mark.slow
@pytest.mark.parametrize("durability", ["power", "process"])
@pytest.mark.parametrize("trained", [False, True])
def test_what_was_acknowledged_survives_more(durability, trained) -> None:
    for seed in range(100, 104 if trained else 110):
        survive(seed, durability, trained)
