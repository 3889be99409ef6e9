"""What cells say beside each other: the cost of long histories, and of reading them again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Plain = dict[str, Any]


def ratios(cells: Sequence[Plain]) -> list[Plain]:
    """Ratios of median times of one client, each with its words.

    Returns
    -------
    list of dict
        "system", "durability", "of" (the words) and "ratio".
    """
    pairs = [cell for cell in cells if cell["durability"] != "none" and cell["clients"] == 1]
    found = []
    for system, durability in dict.fromkeys((c["system"], c["durability"]) for c in pairs):
        own = [c for c in pairs if (c["system"], c["durability"]) == (system, durability)]
        own.sort(key=lambda cell: int(cell["history"]))
        told = {"system": system, "durability": durability}
        short, long = own[0], own[-1]
        if long is not short:
            words = f"after {long['history']:,} events / after {short['history']:,}"
            found.append(told | {"of": words, "ratio": long["p50_ms"] / short["p50_ms"]})
        for again in cells:
            if again["system"].startswith("re-encode"):
                same = next((c for c in own if c["history"] == again["history"]), None)
                if same is not None:
                    words = f"{again['system']} / stream, after {same['history']:,} events"
                    found.append(told | {"of": words, "ratio": again["p50_ms"] / same["p50_ms"]})
    return found
