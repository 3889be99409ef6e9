"""Bursts of all that is measured, in turns, so that what else the machine does hits all alike."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from longrec_bench.cells import Measured
from longrec_bench.plan import SPANS, Plan
from longrec_bench.systems import Together

Progress = Callable[[float, float, str], None]
"""Called with (done, of all, what is done now)."""


class Bursts(Protocol):
    """Whatever is done in bursts, a part of a measurement or something beside it."""

    def burst(self) -> None: ...

    def clear(self) -> None: ...


def take_turns(
    measured: Sequence[Measured],
    beside: Sequence[Bursts],
    plan: Plan,
    tell: Progress,
    words: str = "measuring",
) -> None:
    """Let everything have its bursts, in another order each round, after some that do not count."""
    often = [*(one for one in measured if not isinstance(one, Together)), *beside]
    rarely = [one for one in measured if isinstance(one, Together)]
    rng = random.Random(plan.seed)
    turns: list[list[Any]] = [[*often, *rarely]]
    for number in range(plan.rounds):
        turn = list(often)
        if number * SPANS // plan.rounds != (number - 1) * SPANS // plan.rounds:
            turn += rarely
        rng.shuffle(turn)
        turns.append(turn)
    for number, turn in enumerate(turns):
        for one in turn:
            one.burst()
        if number == 0:
            for one in turn:
                one.clear()
        tell(number, plan.rounds, words)
