"""What linear cost is to reach on a CPU, compared with what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from longrec_bench.cost.analysis import LONG, exponent, ratios, row_at, rows_of
from longrec_bench.cost.systems import FUSED, NAIVE, SASREC, SASREC_NAIVE
from longrec_bench.goals import Goal
from longrec_bench.measurement import Row

DISPATCHER, ELASTIC, HYDRAREC = "dispatcher", "elastic", "hydrarec"
BOTH = "forward+backward"
FOREVER, BOUNDED_FROM, BOUNDED = 1_048_576, 65_536, 1.5
"""Memory is bounded where so many events take at most 1.5 times the peak of 65,536."""
LARGE_BANK, SMALL_BANK = 1 << 20, 1 << 10
EXPONENT, NEVER_SLOWER, BANK = 1.05, 1.0, 1.15


class Comparison(NamedTuple):
    """A system against another one at one length, and the bound of their ratio.

    `of` is "times as fast" (at least `bound`), "time" or "peak memory" (at most `bound`).
    """

    kind: str
    name: str
    against: str
    which: str
    length: int
    of: str
    bound: float


COMPARISONS = (
    *(
        Comparison("mixer", DISPATCHER, FUSED, BOTH, length, "times as fast", bound)
        for length, bound in ((512, 1.0), (4096, 4.0), (16_384, 14.0))
    ),
    *(
        Comparison("model", ELASTIC, SASREC, BOTH, length, "times as fast", bound)
        for length, bound in ((512, 1.0), (4096, 1.8), (16_384, 5.0), (65_536, 15.0))
    ),
    *(
        Comparison("model", ELASTIC, SASREC, "forward", length, "times as fast", bound)
        for length, bound in ((4096, 2.7), (16_384, 8.0))
    ),
    Comparison("mixer", DISPATCHER, NAIVE, BOTH, 4096, "peak memory", 0.1),
    Comparison("mixer", DISPATCHER, FUSED, BOTH, 4096, "peak memory", 1.5),
    Comparison("model", ELASTIC, SASREC_NAIVE, BOTH, 4096, "peak memory", 0.1),
    Comparison("model", ELASTIC, SASREC, BOTH, 4096, "peak memory", 1.5),
    Comparison("model", HYDRAREC, SASREC, BOTH, 200, "time", 0.9),
)


def goals(cells: Sequence[Row]) -> list[Row]:
    """Each goal whose cells were measured.

    Returns
    -------
    list of dict
        "goal" (its words), "measured", "met".
    """
    parts = (_comparisons, _growth, _bounded_memory, _never_slower, _bank)
    found = [goal for part in parts for goal in part(cells)]
    return [{"goal": goal.words, "measured": goal.figure, "met": goal.met} for goal in found]


def _comparisons(cells: Sequence[Row]) -> Iterator[Goal]:
    for kind, name, against, which, length, of, bound in COMPARISONS:
        key = "peak_bytes" if of == "peak memory" else "seconds_median"
        own, peer = (row_at(cells, kind, one, which, length) for one in (name, against))
        if own is None or peer is None or not own[key] or not peer[key]:
            continue
        where = f"{name} against {against}, {which}, {length:,} events"
        if of == "times as fast":
            words = f"{where}: at least {bound:g} times as fast"
            yield Goal(words, peer[key] / own[key], least=bound)
        else:
            words = f"{where}: at most {bound:g} of its {of}"
            yield Goal(words, own[key] / peer[key], most=bound)


def _growth(cells: Sequence[Row]) -> Iterator[Goal]:
    for kind, name in (("mixer", DISPATCHER), ("model", ELASTIC)):
        for which in ("forward", BOTH):
            own = [cell for cell in rows_of(cells, kind, name, which) if cell["length"] >= LONG]
            power = exponent(own, "seconds_median") if len(own) > 2 else None
            if power is not None:
                words = (
                    f"{name}, {which}: time grows at most as T^{EXPONENT:g}, "
                    f"{own[0]['length']:,} to {own[-1]['length']:,} events"
                )
                yield Goal(words, power, most=EXPONENT)


def _bounded_memory(cells: Sequence[Row]) -> Iterator[Goal]:
    long, short = (
        row_at(cells, "model", ELASTIC, "forward", length) for length in (FOREVER, BOUNDED_FROM)
    )
    if long is not None and short is not None and long["peak_bytes"] and short["peak_bytes"]:
        words = (
            f"{ELASTIC} encodes {FOREVER:,} events, {long['events_per_second']:,.0f} per second, "
            f"in at most {BOUNDED:g} of the peak memory of {BOUNDED_FROM:,}"
        )
        yield Goal(words, long["peak_bytes"] / short["peak_bytes"], most=BOUNDED)


def _never_slower(cells: Sequence[Row]) -> Iterator[Goal]:
    own = [row for row in ratios(cells) if row.get("model") == HYDRAREC and row["pass"] != "step"]
    if own:
        worst = min(own, key=lambda row: float(row["ratio"]))
        words = (
            f"{HYDRAREC} against {SASREC}: never slower, at worst {worst['pass']}, "
            f"{worst['length']:,} events: at most {NEVER_SLOWER:g} of its time"
        )
        yield Goal(words, 1 / worst["ratio"], most=NEVER_SLOWER)


def _bank(cells: Sequence[Row]) -> Iterator[Goal]:
    for name in ("training", "stream"):
        seconds = {row["slots"]: row["seconds_median"] for row in cells if row.get("bank") == name}
        if seconds.keys() >= {SMALL_BANK, LARGE_BANK}:
            words = (
                f"bank, {name}: {LARGE_BANK:,} slots take at most {BANK:g} of the time of "
                f"{SMALL_BANK:,}"
            )
            yield Goal(words, seconds[LARGE_BANK] / seconds[SMALL_BANK], most=BANK)
