"""Write a made-up log of XLong's size: 69,691 users, 2,122,932 items, 66.8 million events.

    python benchmarks/xlong_log.py FOLDER [--share 1.0]

FOLDER gets `log`, Parquet files in the order of time as a shop's own days would be, and `some`, the
same for the first 10,000 users alone. A user has six topics of some 500 items and goes through them
in sessions, half of the time to the next item of the topic and otherwise to one that is drawn.
Topics and items are drawn by a Zipf law of exponent .8. One event in twenty is of any item, all of
them in turn, so that each item of the catalog occurs. Lengths of histories follow a gamma law. A
share of users, items and events is a log of a tenth of the size, say, with histories as long.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import polars as pl

USERS, ITEMS, EVENTS = 69_691, 2_122_932, 66_800_000
SOME = 10_000
"""Users of the smaller log."""
TOPIC, TOPICS, SESSION = 500, 6, 10
"""Items of a topic, topics of a user, and events of a session on average."""
NEXT, ANY = 0.5, 0.05
"""Shares of events that are of the topic's next item, and of any item."""
ZIPF, SHAPE, FEWEST = 0.8, 4.0, 8
"""Exponent of popularity, shape of the law of lengths, and events of the shortest history."""
ROWS = 2_000_000
"""Of a file, at least."""


def write_log(folder: Path, share: float, seed: int = 0) -> None:
    """Write it, one event of every user after the other, so that memory holds a file at most."""
    rng = np.random.default_rng(seed)
    users, items = round(USERS * share), round(ITEMS * share)
    lengths = rng.gamma(SHAPE, EVENTS / USERS / SHAPE, users).round().astype(np.int64)
    lengths = -np.sort(-np.maximum(lengths, FEWEST))  # who has events left stands first
    user_ids, item_ids = rng.permutation(users), rng.permutation(items)
    topics = max(TOPICS, items // TOPIC)
    own = drawn(rng, (users, TOPICS), items) % topics
    topic, rank = own[:, 0].copy(), np.zeros(users, np.int64)
    clock = 1_700_000_000 + rng.integers(86_400 * 90, size=users)
    for name in ("log", "some"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    any_item, parts = 0, list[pl.DataFrame]()
    for at in range(int(lengths[0])):
        n = int(np.searchsorted(-lengths, -at))  # whose histories are longer than `at`
        starts = rng.random(n) < (1 / SESSION if at else 1)
        turns = np.flatnonzero(starts)
        topic[turns] = own[turns, rng.integers(TOPICS, size=len(turns))]
        follows = ~starts & (rng.random(n) < NEXT)
        of_topic = drawn(rng, n, items) // topics * topics + topic[:n]
        new = np.where(follows, rank[:n] + topics, of_topic)
        rank[:n] = np.where(new < items, new, topic[:n])
        chosen = rank[:n].copy()
        strays = np.flatnonzero(rng.random(n) < ANY)
        chosen[strays] = (any_item + np.arange(len(strays))) % items
        any_item += len(strays)
        gap = np.where(starts, rng.exponential(86_400, n), rng.exponential(60, n))
        clock[:n] += gap.astype(np.int64) + 1
        parts.append(
            pl.DataFrame({"user": user_ids[:n], "item": item_ids[chosen], "time": clock[:n].copy()})
        )
        if sum(map(len, parts)) >= ROWS or at + 1 == lengths[0]:
            rows = pl.concat(parts).sort("time")
            rows.write_parquet(folder / "log" / f"part-{at:05}.parquet")
            rows.filter(pl.col("user") < round(SOME * share)).write_parquet(
                folder / "some" / f"part-{at:05}.parquet"
            )
            parts.clear()


def drawn(rng: np.random.Generator, size: int | tuple[int, int], items: int) -> np.ndarray:
    """Ranks from 0 by a Zipf law: the whole parts of a continuous one, which has an inverse."""
    power = 1 - ZIPF
    found = (1 + rng.random(size) * ((items + 1) ** power - 1)) ** (1 / power)
    return np.minimum(found.astype(np.int64) - 1, items - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--share", type=float, default=1.0)
    given = parser.parse_args()
    write_log(given.folder, given.share)


if __name__ == "__main__":
    main()
