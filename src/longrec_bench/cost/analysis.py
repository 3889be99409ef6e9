"""What rows of cost say beside each other: ratios, growth, and where one overtakes the other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from longrec_bench.cost.systems import FREE, FUSED, SASREC
from longrec_bench.measurement import Row

PEERS = {"mixer": FUSED, "model": SASREC}
"""What each kind is compared with: fused attention, alone and in a whole model."""
LONG = 1024
"""Events from which growth is fitted: below, what a call costs at any length hides it."""


def rows_of(cells: Sequence[Row], kind: str, name: str, which: str) -> list[Row]:
    """Rows of one system and pass, by rising length."""
    own = [cell for cell in cells if cell.get(kind) == name and cell["pass"] == which]
    return sorted(own, key=lambda cell: int(cell["length"]))


def row_at(cells: Sequence[Row], kind: str, name: str, which: str, length: int) -> Row | None:
    """The one row of a system, pass and length, if it was measured."""
    own = rows_of(cells, kind, name, which)
    return next((cell for cell in own if cell["length"] == length), None)


def measured_systems(cells: Sequence[Row]) -> Iterator[tuple[str, str, str]]:
    """Kind, name and pass of all mixers and models, each once."""
    found = [(kind, cell[kind], cell["pass"]) for cell in cells for kind in PEERS if kind in cell]
    yield from dict.fromkeys(found)


def ratios(cells: Sequence[Row]) -> list[Row]:
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
    for kind, name, which in measured_systems(cells):
        if name == PEERS[kind]:
            continue
        for cell in rows_of(cells, kind, name, which):
            peer = row_at(cells, kind, PEERS[kind], which, cell["length"])
            if peer is None:
                continue
            known = cell["peak_bytes"] is not None and peer["peak_bytes"]
            row = {
                **{kind: name, "length": cell["length"], "pass": which, "against": PEERS[kind]},
                "ratio": peer["seconds_median"] / cell["seconds_median"],
                "ratio_of_least": peer["seconds_min"] / cell["seconds_min"],
                "memory": cell["peak_bytes"] / peer["peak_bytes"] if known else None,
            }
            if kind == "model":
                free = row_at(cells, kind, FREE, which, cell["length"])
                row["ceiling"] = free and peer["seconds_median"] / free["seconds_median"]
            found.append(row)
    return found


def exponents(cells: Sequence[Row]) -> list[Row]:
    """Exponents p of seconds and peak bytes ~ T^p, by least squares on logarithms from 1,024 on.

    Returns
    -------
    list of dict
        The kind with the name, "pass", "seconds" and "bytes" (exponents; None if unknown), "from"
        and "to", the lengths of which the fit is.
    """
    found = []
    for kind, name, which in measured_systems(cells):
        own = [cell for cell in rows_of(cells, kind, name, which) if cell["length"] >= LONG]
        if len(own) < 2 or which == "step":
            continue
        found.append(
            {
                **{kind: name, "pass": which},
                "seconds": exponent(own, "seconds_median"),
                "bytes": exponent(own, "peak_bytes"),
                **{"from": own[0]["length"], "to": own[-1]["length"]},
            }
        )
    return found


def exponent(cells: Sequence[Row], key: str) -> float | None:
    """The slope of log figure over log length; None where a figure is unknown or 0."""
    if any(not cell[key] for cell in cells):
        return None
    lengths, figures = ([float(cell[k]) for cell in cells] for k in ("length", key))
    return float(np.polyfit(np.log(lengths), np.log(figures), 1)[0])


def crossovers(cells: Sequence[Row]) -> list[Row]:
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
    for kind, name, which in measured_systems(cells):
        own = [row for row in table if row.get(kind) == name and row["pass"] == which]
        if not own:
            continue
        slower = [number for number, row in enumerate(own) if row["ratio"] < 1]
        if not slower:
            length = own[0]["length"]
        elif slower[-1] == len(own) - 1:
            length = None
        else:
            length = _between(*own[slower[-1] : slower[-1] + 2])
        row = {kind: name, "pass": which, "against": PEERS[kind], "length": length}
        found.append(row | {"everywhere": not slower})
    return found


def _between(slower: Row, faster: Row) -> float:
    """The length at which the ratio is 1, straight in logarithms."""
    low, high = math.log(slower["ratio"]), math.log(faster["ratio"])
    short, long = math.log(slower["length"]), math.log(faster["length"])
    return math.exp(short + (long - short) * -low / (high - low))
