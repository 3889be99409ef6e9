"""What rows say beside each other and beside the machine: ratios, growth, crossovers, limits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product

import numpy as np

from longrec_bench.cost.systems import DIM, FREE, PEERS
from longrec_bench.measurement import Row

LONG = 1024
"""Events from which growth is fitted: below, what a call costs at any length hides it."""
MOVED = {"forward": 2, "forward+backward": 4}
"""Arrays (B, T, D) that a mixer must read or write at least: x and y, and their gradients."""
NUMBER = 4
"""Bytes of a number."""
REENCODING = "re-encode"
"""What the names of systems without a stream begin with."""
COUNTED = ", counted meanwhile"
"""What the names of streams end with whose logs are counted while pairs are timed."""
SHARED = ("system", "catalog", "transport", "durability")
"""What rows of serving share that differ in the history alone, as far as they have it."""

Curves = dict[tuple[str, str, str], dict[int, Row]]
"""Rows of mixers and models, by (kind, name, pass), then by rising length."""


# ---- cost


def curves(cells: Sequence[Row]) -> Curves:
    """Rows of cost by system and length."""
    found: Curves = {}
    for cell in sorted(cells, key=lambda cell: int(cell["length"])):
        for kind in PEERS.keys() & cell.keys():
            found.setdefault((kind, cell[kind], cell["pass"]), {})[cell["length"]] = cell
    return found


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
    found, measured = [], curves(cells)
    for (kind, name, which), own in measured.items():
        peers = measured.get((kind, PEERS[kind], which), {})
        free = measured.get((kind, FREE, which), {})
        for length, cell in own.items():
            if length not in peers or name == PEERS[kind]:
                continue
            peer, ceiling = peers[length], free.get(length)
            known = cell["peak_bytes"] is not None and peer["peak_bytes"]
            row = {
                **{kind: name, "length": length, "pass": which, "against": PEERS[kind]},
                "ratio": peer["seconds_median"] / cell["seconds_median"],
                "ratio_of_least": peer["seconds_min"] / cell["seconds_min"],
                "memory": cell["peak_bytes"] / peer["peak_bytes"] if known else None,
            }
            if kind == "model":
                row["ceiling"] = ceiling and peer["seconds_median"] / ceiling["seconds_median"]
            found.append(row)
    return found


def exponents(cells: Sequence[Row]) -> list[Row]:
    """Exponents p of seconds and peak bytes ~ T^p, by least squares on logarithms from 1,024 on.

    Returns
    -------
    list of dict
        The kind with the name, "pass", "seconds" and "bytes" (exponents; None if unknown), "from"
        and "to", the lengths of which the fit is, "points", how many.
    """
    found = []
    for (kind, name, which), own in curves(cells).items():
        long = [cell for length, cell in own.items() if length >= LONG]
        if len(long) > 1 and which != "step":
            figures = {
                "seconds": _exponent(long, "seconds_median"),
                "bytes": _exponent(long, "peak_bytes"),
                **{"from": long[0]["length"], "to": long[-1]["length"], "points": len(long)},
            }
            found.append({kind: name, "pass": which, **figures})
    return found


def _exponent(cells: Sequence[Row], key: str) -> float | None:
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
        around it, straight in logarithms; the shortest measured if it is faster everywhere; None
        if it is slower at the longest), "everywhere".
    """
    found, by_system = [], dict[tuple[str, str, str], list[Row]]()
    for row in ratios(cells):
        kind = next(kind for kind in PEERS if kind in row)
        by_system.setdefault((kind, row[kind], row["pass"]), []).append(row)
    for (kind, name, which), own in by_system.items():
        slower = [number for number, row in enumerate(own) if row["ratio"] < 1]
        length: float | None = own[0]["length"]
        if slower and slower[-1] == len(own) - 1:
            length = None
        elif slower:
            around = own[slower[-1] : slower[-1] + 2]
            ratio, at = (np.log([float(row[key]) for row in around]) for key in ("ratio", "length"))
            length = float(np.exp(np.interp(0.0, ratio, at)))
        row = {kind: name, "pass": which, "against": PEERS[kind], "length": length}
        found.append(row | {"everywhere": not slower})
    return found


def limits(cells: Sequence[Row], rates: Mapping[str, float]) -> list[Row]:
    """Least seconds of long histories: operations and bytes over the machine's rates.

    Returns
    -------
    list of dict
        The kind with the name, "length", "pass", "seconds" (median), "operations_seconds" (of
        float32 products at the best rate measured), "bytes_seconds" (of a mixer's inputs and
        outputs alone; None for models), "share" (of the rate that was reached), "gigaflops".
    """
    found = []
    rate = 1e9 * max((rates[name] for name in rates if "float32" in name), default=0.0)
    for (kind, name, which), own in curves(cells).items():
        for length, cell in own.items():
            operations, seconds = cell["operations"], cell["seconds_median"]
            if not rate or not operations or which not in MOVED or length < LONG:
                continue
            moved = MOVED[which] * NUMBER * DIM * length
            copying = moved / (1e9 * rates["gigabytes copied"]) if kind == "mixer" else None
            row = {
                **{kind: name, "length": length, "pass": which, "seconds": seconds},
                **{"operations_seconds": operations / rate, "bytes_seconds": copying},
                **{"share": operations / rate / seconds, "gigaflops": 1e-9 * operations / seconds},
            }
            found.append(row)
    return found


# ---- serving


def serving_ratios(cells: Sequence[Row]) -> list[Row]:
    """Ratios of median times of one client, each with its words.

    Returns
    -------
    list of dict
        "system", "catalog", "transport", "durability", "of" (the words), "ratio".
    """
    rows = []
    again = [cell for cell in cells if cell["system"].startswith(REENCODING)]
    for shared, own in by_history(cells):
        shortest, longest = own[0], own[-1]
        compared = []
        if longest is not shortest:
            words = f"after {longest['history']:,} events / after {shortest['history']:,}"
            compared.append((words, longest, shortest))
        for other in again:
            for cell in own:
                if all(cell[key] == other[key] for key in ("history", "catalog", "transport")):
                    words = f"{other['system']} / stream, after {cell['history']:,} events"
                    compared.append((words, other, cell))
        compared += [
            ("while its log is counted / not", cell, other)
            for cell in cells
            for other in own
            if cell["system"] == f"{other['system']}{COUNTED}"
            and all(cell[key] == other[key] for key in ("history", *SHARED[1:]))
        ]
        compared += [
            (f"{shared['transport']} / python, after {cell['history']:,} events", cell, other)
            for cell, other in beside_python(own, cells)
        ]
        rows += [
            shared | {"of": words, "ratio": above["p50_ms"] / below["p50_ms"]}
            for words, above, below in compared
        ]
    return rows


def beside_python(own: Sequence[Row], cells: Sequence[Row]) -> Iterator[tuple[Row, Row]]:
    """Those of some cells of one client over HTTP, each with that of the same in one process."""
    same = ("system", "history", "catalog", "clients", "durability")
    over_http = (cell for cell in own if cell["transport"] != "python" and cell["clients"] == 1)
    for cell, other in product(over_http, cells):
        if other["transport"] == "python" and all(cell[key] == other[key] for key in same):
            yield cell, other


def by_history(cells: Sequence[Row]) -> Iterator[tuple[Row, list[Row]]]:
    """What rows of one client share that differ in the history alone; they, short ones first."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    for cell in cells:
        one_client = cell["durability"] != "none" and cell["clients"] == 1
        if one_client and not cell["system"].endswith(COUNTED):
            groups.setdefault(tuple(cell[key] for key in SHARED), []).append(cell)
    for values, own in groups.items():
        rows = sorted(own, key=lambda cell: int(cell["history"]))
        yield dict(zip(SHARED, values, strict=True)), rows
