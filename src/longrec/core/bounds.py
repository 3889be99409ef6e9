"""Ranges of settings, declared once, beside the field: `dim: Annotated[int, Bounds(ge=1)] = 64`.

pydantic reads them where values come in, and whoever describes a setting prints them. Plain Python,
so that configs need nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

MOST = 2**31 - 1
"""Of events, items, users or steps that a setting counts."""


@dataclass(frozen=True)
class Bounds:
    """Which numbers a setting may be; None is no bound, and NaN lies nowhere.

    Parameters
    ----------
    ge, gt, le, lt : float or None
        At least, above, at most, below.
    """

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def __str__(self) -> str:
        """As what follows "it must be": "at least 1", "in [0, 1)"."""
        low = self.gt if self.ge is None else self.ge
        high = self.lt if self.le is None else self.le
        if low is not None and high is not None:
            left, right = "(" if self.ge is None else "[", ")" if self.le is None else "]"
            return f"in {left}{low}, {high}{right}"
        if low is not None:
            return f"{'above' if self.ge is None else 'at least'} {low}"
        return f"{'below' if self.le is None else 'at most'} {high}"

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        """pydantic's schema of the numbers, with these bounds; None and choices have none."""
        schema = handler(source)
        bounds = {name: value for name, value in asdict(self).items() if value is not None}
        inner = schema["schema"] if schema["type"] == "nullable" else schema
        if inner["type"] != "union":
            inner.update(bounds)
            return schema
        for choice in inner["choices"]:
            if choice["type"] in ("int", "float"):
                choice.update(bounds)
        return schema
