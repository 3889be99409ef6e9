"""What the plans of all measurements share: rounds, a seed, and checks of their values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from longrec.core.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How often everything is measured.

    Attributes
    ----------
    rounds : in each of which everything has one sample, in an order drawn anew.
    seed : of what is drawn: the order of samples, weights, inputs, users and events.
    """

    rounds: int
    seed: int = 0

    def __post_init__(self) -> None:
        self.check_least("rounds", 1)

    def check_different(self, name: str) -> None:
        """Raise UsageError if a sequence has a value twice."""
        values = getattr(self, name)
        if len(set(values)) < len(values):
            raise UsageError(f"{name} needs different values; it has {_listed(values)}")

    def check_any(self, name: str) -> None:
        """Raise UsageError if a sequence is empty, or has a value twice."""
        if not getattr(self, name):
            raise UsageError(f"{name} needs different values, at least one; it has none")
        self.check_different(name)

    def check_choices(self, name: str, choices: Sequence[str]) -> None:
        """Raise UsageError if a sequence has another value than those known."""
        for value in getattr(self, name):
            if value not in choices:
                raise UsageError(
                    f"{name} has {value!r}, which is unknown; choose {_listed(choices)}"
                )

    def check_least(self, name: str, least: int) -> None:
        """Raise UsageError if a number, or one of a sequence, is smaller than it may be."""
        value = getattr(self, name)
        if not isinstance(value, Sequence):
            if value < least:
                raise UsageError(f"{name} is {value}; it must be at least {least}")
        elif value and min(value) < least:
            raise UsageError(f"{name} has {min(value)}; each must be at least {least}")

    def check_positive(self, name: str) -> None:
        """Raise UsageError if a number is not above 0, or has no end."""
        value = getattr(self, name)
        if not 0 < value < math.inf:
            raise UsageError(f"{name} is {value}; it must be above 0")


def _listed(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))
