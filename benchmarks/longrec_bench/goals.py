"""What cost and serving are to reach on a CPU, and whether what was measured reaches it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from longrec_bench.analysis import COUNTED, beside_python, by_history, curves, exponents, ratios
from longrec_bench.cost.systems import FUSED, NAIVE, SASREC, SASREC_NAIVE
from longrec_bench.measurement import Row


@dataclass(frozen=True)
class Goal:
    """A figure that was measured, and its bounds.

    Attributes
    ----------
    words : what is to be reached.
    figure : what was measured.
    least, most : bounds of the figure; None: there is none on this side.
    at : where it was measured, in words; empty if the goal's words say so.
    """

    words: str
    figure: float
    least: float | None = None
    most: float | None = None
    at: str = ""

    @property
    def met(self) -> bool:
        """Whether the figure lies within its bounds."""
        above = self.least is None or self.figure >= self.least
        return above and (self.most is None or self.figure <= self.most)


# ---- cost

DISPATCHER, ELASTIC, HYDRAREC = "dispatcher", "elastic", "hydrarec"
FORWARD, BOTH = "forward", "forward+backward"
FAST, TIME, MEMORY = "times as fast", "of its time", "of its peak memory"
COMPARED = (
    (("mixer", DISPATCHER, FUSED, BOTH), FAST, {512: 1.0, 4096: 4.0, 16_384: 14.0}),
    (("model", ELASTIC, SASREC, BOTH), FAST, {512: 1.0, 4096: 1.8, 16_384: 5.0, 65_536: 15.0}),
    (("model", ELASTIC, SASREC, FORWARD), FAST, {4096: 2.7, 16_384: 8.0}),
    (("mixer", DISPATCHER, NAIVE, BOTH), MEMORY, {4096: 0.1}),
    (("mixer", DISPATCHER, FUSED, BOTH), MEMORY, {4096: 1.5}),
    (("model", ELASTIC, SASREC_NAIVE, BOTH), MEMORY, {4096: 0.1}),
    (("model", ELASTIC, SASREC, BOTH), MEMORY, {4096: 1.5}),
    (("model", HYDRAREC, SASREC, BOTH), TIME, {200: 0.9}),
)
"""A system against another one: kind, both names and pass; of what; bounds of the ratio by length:
at least as many times as fast, at most so much of the other's time or memory."""
FOREVER, BOUNDED_FROM, BOUNDED = 1_048_576, 65_536, 1.5
"""Memory is bounded where so many events take at most 1.5 times the peak of 65,536."""
LARGE_BANK, SMALL_BANK = 1 << 20, 1 << 10
EXPONENT, NEVER_SLOWER, BANK = 1.05, 1.0, 1.15


def cost_goals(cells: Sequence[Row]) -> list[Row]:
    """Each goal whose cells were measured, as {"goal": its words, "measured": …, "met": …}."""
    found = [*_compared(cells), *_growth(cells), *_never_slower(cells), *_bank(cells)]
    return [{"goal": goal.words, "measured": goal.figure, "met": goal.met} for goal in found]


def _compared(cells: Sequence[Row]) -> Iterator[Goal]:
    measured = curves(cells)
    for (kind, name, against, which), of, bounds in COMPARED:
        key = "peak_bytes" if of == MEMORY else "seconds_median"
        for length, bound in bounds.items():
            own, peer = (
                measured.get((kind, one, which), {}).get(length, {}).get(key)
                for one in (name, against)
            )
            if own and peer:
                words = f"{name} against {against}, {which}, {length:,} events: "
                if of == FAST:
                    yield Goal(f"{words}at least {bound:g} {of}", peer / own, least=bound)
                else:
                    yield Goal(f"{words}at most {bound:g} {of}", own / peer, most=bound)


def _growth(cells: Sequence[Row]) -> Iterator[Goal]:
    """Time that grows in proportion to the history, and memory that does not grow at all."""
    for row in exponents(cells):
        name = row.get("mixer", row.get("model"))
        if name in (DISPATCHER, ELASTIC) and row["points"] > 2 and row["seconds"] is not None:
            words = (
                f"{name}, {row['pass']}: time grows at most as T^{EXPONENT:g}, "
                f"{row['from']:,} to {row['to']:,} events"
            )
            yield Goal(words, row["seconds"], most=EXPONENT)
    encoded = curves(cells).get(("model", ELASTIC, FORWARD), {})
    long, short = (encoded.get(length) for length in (FOREVER, BOUNDED_FROM))
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


# ---- serving

P99_MS, RECALL, FLAT, PAIRS_PER_SECOND, OVER_PYTHON = 10.0, 0.95, 1.1, 300.0, 1.6
LARGE, SMALL, ABOUT = 1_000_000, 3_400, 0.1
"""Items that goals speak of; catalogs of so many but for a tenth count."""


def serving_goals(cells: Sequence[Row]) -> list[Row]:
    """Each goal for each system that was measured under its condition, at its worst cell.

    Returns
    -------
    list of dict
        "system", "goal", "figure", "at" (where the worst figure was), "met".
    """
    served = [
        cell
        for cell in cells
        if cell["durability"] != "none" and not cell["system"].endswith(COUNTED)
    ]
    found = []
    for system in dict.fromkeys(cell["system"] for cell in served):
        own = [cell for cell in served if cell["system"] == system]
        parts = (_large_catalog(own), _flat_in_history(own), _many_clients(own), _over_python(own))
        found += [(system, goal) for part in parts for goal in part]
    return [
        {
            **{"system": system, "goal": goal.words, "figure": goal.figure},
            **{"at": goal.at, "met": goal.met},
        }
        for system, goal in sorted(found, key=lambda pair: pair[1].words)
    ]


def _large_catalog(cells: Sequence[Row]) -> Iterator[Goal]:
    large = [cell for cell in cells if cell["clients"] == 1 and _has_about(cell, LARGE)]
    for transport in dict.fromkeys(cell["transport"] for cell in large):
        own = [cell for cell in large if cell["transport"] == transport]
        worst = max(own, key=lambda cell: float(cell["p99_ms"]))
        words = f"p99 under {P99_MS:g} ms at {LARGE:,} items, one client, {transport}"
        at = f"{worst['history']:,} events, {worst['durability']}"
        yield Goal(words, worst["p99_ms"], most=P99_MS, at=at)
    if large:
        least = min(float(cell["recall_at_10"]) for cell in large)
        words = f"recall@10 of at least {RECALL:g} at {LARGE:,} items"
        yield Goal(words, least, least=RECALL, at=f"{large[0]['catalog']:,} items")


def _flat_in_history(cells: Sequence[Row]) -> Iterator[Goal]:
    worst: dict[str, Goal] = {}
    for shared, own in by_history(cells):
        ratio, transport = own[-1]["p50_ms"] / own[0]["p50_ms"], shared["transport"]
        if len(own) > 1 and (transport not in worst or ratio > worst[transport].figure):
            words = f"p50 flat in the history (at most {FLAT:g} of the shortest's), {transport}"
            where = f"{shared['catalog']:,} items, {own[-1]['history']:,} events"
            at = f"{where}, {shared['durability']}"
            worst[transport] = Goal(words, ratio, most=FLAT, at=at)
    yield from worst.values()


def _many_clients(cells: Sequence[Row]) -> Iterator[Goal]:
    """The most pairs that any number of clients reaches, where that is least."""
    most: dict[tuple[int, str], Row] = {}
    for cell in sorted(cells, key=_rate):
        if cell["transport"] == "http" and _has_about(cell, SMALL):
            most[cell["history"], cell["durability"]] = cell
    if most:
        worst = min(most.values(), key=_rate)
        words = f"{PAIRS_PER_SECOND:g} pairs per second over HTTP at {SMALL:,} items"
        at = f"clients: {worst['clients']}, {worst['history']:,} events, {worst['durability']}"
        yield Goal(words, _rate(worst), least=PAIRS_PER_SECOND, at=at)


def _over_python(cells: Sequence[Row]) -> Iterator[Goal]:
    """What a pair over HTTP costs of one in process, where that is most."""
    worst: dict[str, Goal] = {}
    for cell, other in beside_python([one for one in cells if _has_about(one, SMALL)], cells):
        ratio, transport = cell["p50_ms"] / other["p50_ms"], cell["transport"]
        if transport not in worst or ratio > worst[transport].figure:
            words = f"p50 at most {OVER_PYTHON:g} times that in process at {SMALL:,} items"
            at = f"{cell['history']:,} events, {cell['durability']}"
            goal = Goal(f"{words}, one client, {transport}", ratio, most=OVER_PYTHON, at=at)
            worst[transport] = goal
    yield from worst.values()


def _rate(cell: Row) -> float:
    return float(cell["pairs_per_second"])


def _has_about(cell: Row, items: int) -> bool:
    return abs(float(cell["catalog"]) / items - 1) <= ABOUT
