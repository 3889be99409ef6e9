"""How far cells are from what the machine can do at most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from longrec_bench.cells import Cell
from longrec_bench.cost.analysis import AGAINST, LONG
from longrec_bench.cost.subjects import DIM

NUMBER = 4
"""Bytes of a number."""
MOVED = {"forward": 2, "forward+backward": 4}
"""Arrays (B, T, D) that a mixer must read or write at least: x and y, and their gradients."""


def limits(cells: Sequence[Cell], rates: dict[str, float]) -> list[dict[str, Any]]:
    """Least seconds of long cells, by operations over the matrix rate and bytes over bandwidth.

    Returns
    -------
    list of dict
        The kind with the name, "length", "pass", "seconds" (median), "operations_seconds" (of
        float32 products at the best rate measured), "bytes_seconds" (of a mixer's inputs and
        outputs alone; None for models), "share" (of the rate that was reached), "gigaflops".
    """
    rate = 1e9 * max((rates[key] for key in rates if "float32" in key), default=0.0)
    found = []
    for cell in cells:
        kind = next((key for key in AGAINST if key in cell), None)
        if kind is None or not rate or not cell["operations"]:
            continue
        if cell["pass"] not in MOVED or cell["length"] < LONG:
            continue
        seconds = cell["seconds_median"]
        row: dict[str, Any] = {kind: cell[kind]} | {key: cell[key] for key in ("length", "pass")}
        row |= {"seconds": seconds, "operations_seconds": cell["operations"] / rate}
        row["bytes_seconds"] = None
        if kind == "mixer":
            moved = MOVED[cell["pass"]] * NUMBER * DIM * cell["length"]
            row["bytes_seconds"] = moved / (1e9 * rates["gigabytes copied"])
        row["share"] = cell["operations"] / rate / seconds
        found.append(row | {"gigaflops": 1e-9 * cell["operations"] / seconds})
    return found
