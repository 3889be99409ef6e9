"""What cells of cost say beside each other: ratios, growth, and where one overtakes the other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from longrec_bench.cells import Cell
from longrec_bench.cost.subjects import FREE, FUSED, SASREC

AGAINST = {"mixer": FUSED, "model": SASREC}
"""What each kind is held against: fused attention, alone and in a whole model."""
LONG = 1024
"""Events from which growth is fitted: below, what a call costs at any length hides it."""


def named(cells: Sequence[Cell], kind: str, name: str, which: str) -> list[Cell]:
    """Cells of one thing and pass, by rising length."""
    own = [cell for cell in cells if cell.get(kind) == name and cell["pass"] == which]
    return sorted(own, key=lambda cell: int(cell["length"]))


def at_length(cells: Sequence[Cell], kind: str, name: str, which: str, length: int) -> Cell | None:
    """The one cell of a thing, pass and length, if it was measured."""
    own = named(cells, kind, name, which)
    return next((cell for cell in own if cell["length"] == length), None)


def things(cells: Sequence[Cell]) -> Iterator[tuple[str, str, str]]:
    """Kind, name and pass of all mixers and models, each once."""
    found = [(kind, cell[kind], cell["pass"]) for cell in cells for kind in AGAINST if kind in cell]
    yield from dict.fromkeys(found)


def ratios(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """How many times faster than fused attention each is at each length, where both were measured.

    Returns
    -------
    list of dict
        The kind with the name, "length", "pass", "against", "ratio" (of median seconds, above 1 is
        faster), "ratio_of_least" (of least seconds), "memory" (of peaks, below 1 is less; None if
        unknown), and for models "ceiling", the ratio that a free mixer would give (None if it was
        not measured).
    """
    found = []
    for kind, name, which in things(cells):
        if name == AGAINST[kind]:
            continue
        for cell in named(cells, kind, name, which):
            peer = at_length(cells, kind, AGAINST[kind], which, cell["length"])
            if peer is None:
                continue
            row = {kind: name, "length": cell["length"], "pass": which, "against": AGAINST[kind]}
            row["ratio"] = peer["seconds_median"] / cell["seconds_median"]
            row["ratio_of_least"] = peer["seconds_min"] / cell["seconds_min"]
            known = cell["peak_bytes"] is not None and peer["peak_bytes"]
            row["memory"] = cell["peak_bytes"] / peer["peak_bytes"] if known else None
            if kind == "model":
                free = at_length(cells, kind, FREE, which, cell["length"])
                row["ceiling"] = free and peer["seconds_median"] / free["seconds_median"]
            found.append(row)
    return found


def exponents(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Exponents p of seconds and peak bytes ~ T^p, by least squares on logarithms from 1,024 on.

    Returns
    -------
    list of dict
        The kind with the name, "pass", "seconds" and "bytes" (exponents; None if unknown), "from"
        and "to", the lengths of which the fit is.
    """
    found = []
    for kind, name, which in things(cells):
        own = [cell for cell in named(cells, kind, name, which) if cell["length"] >= LONG]
        if len(own) < 2 or which == "step":
            continue
        row = {kind: name, "pass": which, "seconds": exponent(own, "seconds_median")}
        row["bytes"] = exponent(own, "peak_bytes")
        found.append(row | {"from": own[0]["length"], "to": own[-1]["length"]})
    return found


def exponent(cells: Sequence[Cell], key: str) -> float | None:
    """The slope of log figure over log length; None where a figure is unknown or 0."""
    if any(not cell[key] for cell in cells):
        return None
    lengths, figures = ([float(cell[k]) for cell in cells] for k in ("length", key))
    return float(np.polyfit(np.log(lengths), np.log(figures), 1)[0])


def crossovers(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """From which length on each is faster than fused attention at all longer ones measured.

    Returns
    -------
    list of dict
        The kind with the name, "pass", "against", "length" (interpolated between the two lengths
        around it; the shortest measured if it is faster everywhere; None if it is slower at the
        longest), "everywhere".
    """
    found = []
    table = ratios(cells)
    for kind, name, which in things(cells):
        own = [row for row in table if row.get(kind) == name and row["pass"] == which]
        if not own:
            continue
        slower = [number for number, row in enumerate(own) if row["ratio"] < 1]
        last = slower[-1] if slower else -1
        length: float | None = own[0]["length"]
        if last == len(own) - 1:
            length = None
        elif slower:
            length = _between(own[last], own[last + 1])
        row = {kind: name, "pass": which, "against": AGAINST[kind], "length": length}
        found.append(row | {"everywhere": not slower})
    return found


def _between(slower: dict[str, Any], faster: dict[str, Any]) -> float:
    """The length at which the ratio is 1, straight in logarithms."""
    low, high = math.log(slower["ratio"]), math.log(faster["ratio"])
    short, long = math.log(slower["length"]), math.log(faster["length"])
    return math.exp(short + (long - short) * -low / (high - low))
