"""Ranges of settings, declared once, beside the field: `dim: Annotated[int, Bounds(ge=1)] = 64`.

Whoever makes a config calls `check_bounds` in `__post_init__`; whoever describes it prints the
`Bounds`. Plain Python, so that configs need nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Annotated, Any, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Bounds:
    """Which numbers a setting may be; None is no bound.

    Parameters
    ----------
    ge, gt, le, lt : float or None
        At least, above, at most, below.
    """

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def allow(self, value: float) -> bool:
        """Whether the value lies within; NaN never does."""
        return (
            (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
            and value == value
        )

    def __str__(self) -> str:
        """As what follows "it must": "be at least 1", "lie in [0, 1)"."""
        low = self.gt if self.ge is None else self.ge
        high = self.lt if self.le is None else self.le
        if low is not None and high is not None:
            left, right = "(" if self.ge is None else "[", ")" if self.le is None else "]"
            return f"lie in {left}{low}, {high}{right}"
        if low is not None:
            return f"be {'above' if self.ge is None else 'at least'} {low}"
        return f"be {'below' if self.le is None else 'at most'} {high}"


def bounds_of(config: type[Any]) -> Iterator[tuple[str, Bounds]]:
    """The fields of a dataclass that have bounds, in their order."""
    hints = get_type_hints(config, include_extras=True)
    for field in fields(config):
        if get_origin(hints[field.name]) is Annotated:
            for extra in get_args(hints[field.name])[1:]:
                if isinstance(extra, Bounds):
                    yield field.name, extra


def check_bounds(config: Any) -> None:
    """Raise ValueError for the first field outside its bounds; None, where allowed, has none."""
    for name, bounds in bounds_of(type(config)):
        value = getattr(config, name)
        if value is not None and not bounds.allow(value):
            raise ValueError(f"{name} is {value}; it must {bounds}")
