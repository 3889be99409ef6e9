"""Numbers, sizes and durations as people read them, the same in tables, reports and messages."""

from __future__ import annotations

import re
from collections.abc import Iterable

from longrec.core.errors import UsageError

LISTED, LONGEST = 10, 100
"""Names that a message lists, and characters of each."""


def number(value: object) -> str:
    """A value for a table's cell.

    Whole numbers get commas, other numbers three digits that count and no exponent ("1,234",
    "12.3", "0.123"); None is empty, and anything else is its own text.
    """
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    decimals = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{decimals}f}"


def listed(names: Iterable[object], none: str = "none") -> str:
    """Names for a message: "a, b, c"; of many, as a file or a request may have them, the first ones
    and how many more there are, and of a long one its beginning."""
    texts = [str(name) for name in names]
    shown = [f"{one[:LONGEST]}…" if len(one) > LONGEST else one for one in texts[:LISTED]]
    more = f" and {len(texts) - LISTED:,} more" if len(texts) > LISTED else ""
    return ", ".join(shown) + more if shown else none


def duration(seconds: float) -> str:
    """Seconds in words: "0.4 s", "35 s", "42 min", "1 h 05 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def parse_bytes(name: str, text: str) -> int:
    """Bytes as a person writes them: "8GiB", "500 MB", "8g"; KB and KiB, k and K, … are 1024.

    Raises
    ------
    UsageError
        When it is none, under the name of an option.
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)(?:i?b)?\s*", text.lower())
    if found is None:
        raise UsageError(f"{name} is {text!r}; give bytes, such as 8GiB or 500MB")
    return int(float(found[1]) * 1024 ** " kmgt".index(found[2] or " "))


def size(count: float) -> str:
    """Bytes in words: "2,328 B", "18.0 KiB", "512 MiB"."""
    if count < 10_000:
        return f"{count:,.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1000 or unit == "GiB":
            break
    return f"{count:.0f} {unit}" if count >= 100 else f"{count:.1f} {unit}"
