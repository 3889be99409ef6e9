"""What cells say beside each other: the cost of long histories, and of reading them again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from longrec_bench.cells import Cell

BY = ("system", "catalog", "transport", "durability")
"""What cells share that differ in the history alone, as far as they have it."""
AGAIN = "re-encode"


def ratios(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Ratios of median times of one client, each with its words.

    Returns
    -------
    list of dict
        "system", "catalog" and "transport" if the cells have them, "durability", "of" (the words),
        "ratio".
    """
    found = []
    for told, own in by_history(cells):
        short, long = own[0], own[-1]
        if long is not short:
            words = f"after {long['history']:,} events / after {short['history']:,}"
            found.append(told | {"of": words, "ratio": long["p50_ms"] / short["p50_ms"]})
        for again in cells:
            if not again["system"].startswith(AGAIN):
                continue
            same = next((one for one in own if _comparable(one, again)), None)
            if same is not None:
                words = f"{again['system']} / stream, after {same['history']:,} events"
                found.append(told | {"of": words, "ratio": again["p50_ms"] / same["p50_ms"]})
    return found


def by_history(cells: Sequence[Cell]) -> Iterator[tuple[Cell, list[Cell]]]:
    """Cells of one client that differ in the history alone, short ones first: (shared, cells)."""
    pairs = [cell for cell in cells if cell["durability"] != "none" and cell["clients"] == 1]
    shared = [{key: cell[key] for key in BY if key in cell} for cell in pairs]
    for number, told in enumerate(shared):
        if told not in shared[:number]:
            own = [cell for cell, other in zip(pairs, shared, strict=True) if other == told]
            yield told, sorted(own, key=lambda cell: int(cell["history"]))


def _comparable(one: Cell, again: Cell) -> bool:
    keys = ("history", "catalog", "transport")
    return all(one.get(key) == again.get(key) for key in keys)
