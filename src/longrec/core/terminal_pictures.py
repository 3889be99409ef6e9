"""Small pictures in text: bars and lines of block letters, for a terminal or a pipe.

Where the output's encoding has no such letters, plain ones stand for them.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

BLOCKS, PLAIN = "▁▂▃▄▅▆▇█", "_.-:=+*#"
PARTS = "▏▎▍▌▋▊▉█"
"""A cell of a bar, filled by eighths."""


def line(values: Sequence[float | None], width: int = 60, lowest: float | None = None) -> str:
    """Values as one row of letters, as high in it as they are between the extremes.

    `lowest` stands for the lowest value where the distance from it matters, as 0 for counts. More
    values than `width` are averaged in parts; what is None or not a number is a blank.
    """
    shown = _averaged([None if x is None or not math.isfinite(x) else x for x in values], width)
    known = [x for x in shown if x is not None]
    if not known:
        return ""
    low, high = min(known) if lowest is None else lowest, max(known)
    letters = BLOCKS if _has_blocks() else PLAIN
    steps = (len(letters) - 1) / (high - low) if high > low else 0.0
    return "".join(" " if x is None else letters[round((x - low) * steps)] for x in shown)


def bars(rows: Sequence[tuple[str, int]], width: int = 40) -> list[str]:
    """Rows of a label, a bar and its number, the longest bar `width` letters long."""
    widest = max((len(label) for label, _ in rows), default=0)
    most = max((count for _, count in rows), default=0) or 1
    return [f"{label:>{widest}}  {_bar(count / most, width)} {count:,}" for label, count in rows]


def _bar(share: float, width: int) -> str:
    if not _has_blocks():
        return "#" * math.ceil(share * width)
    eighths = math.ceil(share * width * len(PARTS))
    whole, rest = divmod(eighths, len(PARTS))
    return PARTS[-1] * whole + (PARTS[rest - 1] if rest else "")


def _averaged(values: Sequence[float | None], width: int) -> list[float | None]:
    if len(values) <= width:
        return list(values)
    shown = list[float | None]()
    for part in range(width):
        here = values[part * len(values) // width : (part + 1) * len(values) // width]
        known = [x for x in here if x is not None]
        shown.append(sum(known) / len(known) if known else None)
    return shown


def _has_blocks() -> bool:
    try:
        (BLOCKS + PARTS).encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
