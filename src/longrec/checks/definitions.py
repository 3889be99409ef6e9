"""What a mixer is compared with: its mechanism as the paper writes it, slowly, in float64.

A mixer's definition is registered beside it, and so are the ways to build it that the checks go
through; without examples it is built as `cls(dim)`.

    @define.register
    def _(mixer: MyMixer, x: Tensor, times: Tensor) -> Defined:
        ...                                     # one history x (T, D) -> outputs, last state

    EXAMPLES["my-mixer"] = {"two heads": partial(MyMixer, heads=2)}
"""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch

from torch import Tensor

from longrec.checks.compare import NotChecked
from longrec.mixers import MIXERS, Mixer, State

Make = Callable[[int], Mixer]
"""A constructor that takes the width."""
Defined = tuple[Tensor, State | None]
"""Outputs (T, D), and the state after the last event where there is one."""

EXAMPLES: dict[str, dict[str, Make]] = {}
"""Ways to build a mixer by its registered name, each with a name of its own."""


@singledispatch
def define(mixer: Mixer, x: Tensor, times: Tensor) -> Defined:
    """Mix one whole history x (T, D) with times (T,), as the paper writes it."""
    raise NotChecked(
        f"{type(mixer).__name__} has no definition: register a definition with "
        "@longrec.checks.definitions.define.register"
    )


def examples_of(name: str) -> dict[str, Make]:
    """The ways to build a registered mixer that the checks go through."""
    return EXAMPLES.get(name, {"default": MIXERS[name]})
