"""What linear cost is to reach on a CPU, held against the cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from longrec_bench.cells import Cell
from longrec_bench.cost.analysis import LONG, at_length, exponent, named, ratios
from longrec_bench.cost.subjects import FUSED, NAIVE, SASREC, SASREC_NAIVE

DISPATCHER, ELASTIC, HYDRAREC = "dispatcher", "elastic", "hydrarec"
BOTH = "forward+backward"
FOREVER, BOUNDED_FROM, BOUNDED = 1_048_576, 65_536, 1.5
"""Memory is bounded where so many events take at most 1.5 times the peak of 65,536."""
LARGE_BANK, SMALL_BANK = 1 << 20, 1 << 10


class Goal(NamedTuple):
    """One thing against another at one length: a bound of a ratio.

    `of` is "times as fast" (at least `bound`), "time" or "peak memory" (at most `bound`).
    """

    kind: str
    name: str
    against: str
    which: str
    length: int
    of: str
    bound: float


GOALS = (
    *(
        Goal("mixer", DISPATCHER, FUSED, BOTH, length, "times as fast", bound)
        for length, bound in ((512, 1.0), (4096, 4.0), (16_384, 14.0))
    ),
    *(
        Goal("model", ELASTIC, SASREC, BOTH, length, "times as fast", bound)
        for length, bound in ((512, 1.0), (4096, 1.8), (16_384, 5.0), (65_536, 15.0))
    ),
    *(
        Goal("model", ELASTIC, SASREC, "forward", length, "times as fast", bound)
        for length, bound in ((4096, 2.7), (16_384, 8.0))
    ),
    Goal("mixer", DISPATCHER, NAIVE, BOTH, 4096, "peak memory", 0.1),
    Goal("mixer", DISPATCHER, FUSED, BOTH, 4096, "peak memory", 1.5),
    Goal("model", ELASTIC, SASREC_NAIVE, BOTH, 4096, "peak memory", 0.1),
    Goal("model", ELASTIC, SASREC, BOTH, 4096, "peak memory", 1.5),
    Goal("model", HYDRAREC, SASREC, BOTH, 200, "time", 0.9),
)
EXPONENT, NEVER_SLOWER, BANK = 1.05, 1.0, 1.15


def goals(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Each goal whose cells were measured.

    Returns
    -------
    list of dict
        "goal" (its words), "measured", "met".
    """
    return [*_ratios(cells), *_growth(cells), *_forever(cells), *_hydra(cells), *_bank(cells)]


def _ratios(cells: Sequence[Cell]) -> Iterator[dict[str, Any]]:
    for goal in GOALS:
        own = at_length(cells, goal.kind, goal.name, goal.which, goal.length)
        peer = at_length(cells, goal.kind, goal.against, goal.which, goal.length)
        key = "peak_bytes" if goal.of == "peak memory" else "seconds_median"
        if own is None or peer is None or not own[key] or not peer[key]:
            continue
        where = f"{goal.name} against {goal.against}, {goal.which}, {goal.length:,} events"
        measured = own[key] / peer[key]
        if goal.of == "times as fast":
            yield _told(
                f"{where}: at least {goal.bound:g} times as fast",
                1 / measured,
                1 / measured >= goal.bound,
            )
        else:
            words = f"{where}: at most {goal.bound:g} of its {goal.of}"
            yield _told(words, measured, measured <= goal.bound)


def _growth(cells: Sequence[Cell]) -> Iterator[dict[str, Any]]:
    for kind, name in (("mixer", DISPATCHER), ("model", ELASTIC)):
        for which in ("forward", BOTH):
            own = [cell for cell in named(cells, kind, name, which) if cell["length"] >= LONG]
            if len(own) > 2:
                found = exponent(own, "seconds_median")
                assert found is not None
                words = (
                    f"{name}, {which}: time grows at most as T^{EXPONENT:g}, "
                    f"{own[0]['length']:,} to {own[-1]['length']:,} events"
                )
                yield _told(words, found, found <= EXPONENT)


def _forever(cells: Sequence[Cell]) -> Iterator[dict[str, Any]]:
    long = at_length(cells, "model", ELASTIC, "forward", FOREVER)
    short = at_length(cells, "model", ELASTIC, "forward", BOUNDED_FROM)
    if long is not None and short is not None and long["peak_bytes"] and short["peak_bytes"]:
        words = (
            f"{ELASTIC} encodes {FOREVER:,} events, {long['events_per_second']:,.0f} per second, "
            f"in at most {BOUNDED:g} of the peak memory of {BOUNDED_FROM:,}"
        )
        measured = long["peak_bytes"] / short["peak_bytes"]
        yield _told(words, measured, measured <= BOUNDED)


def _hydra(cells: Sequence[Cell]) -> Iterator[dict[str, Any]]:
    own = [row for row in ratios(cells) if row.get("model") == HYDRAREC and row["pass"] != "step"]
    if own:
        worst = min(own, key=lambda row: float(row["ratio"]))
        words = (
            f"{HYDRAREC} against {SASREC}: never slower, at worst {worst['pass']}, "
            f"{worst['length']:,} events: at most {NEVER_SLOWER:g} of its time"
        )
        yield _told(words, 1 / worst["ratio"], 1 / worst["ratio"] <= NEVER_SLOWER)


def _bank(cells: Sequence[Cell]) -> Iterator[dict[str, Any]]:
    for name in ("training", "stream"):
        found = {cell["slots"]: cell for cell in cells if cell.get("bank") == name}
        if found.keys() >= {SMALL_BANK, LARGE_BANK}:
            large, small = (found[size]["seconds_median"] for size in (LARGE_BANK, SMALL_BANK))
            words = (
                f"bank, {name}: {LARGE_BANK:,} slots take at most {BANK:g} of the time of "
                f"{SMALL_BANK:,}"
            )
            yield _told(words, large / small, large / small <= BANK)


def _told(words: str, measured: float, met: bool) -> dict[str, Any]:
    return {"goal": words, "measured": measured, "met": met}
