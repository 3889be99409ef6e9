"""A made-up log over a large catalog, and a model trained on it, for measuring indexes.

    nice python benchmarks/large_catalog.py FOLDER --items 1000000 --minutes 12

FOLDER gets `histories` and `run`. Items belong to topics of some 500; a user has a few topics and
goes through them in sessions, to the next item of the topic's ring or to one drawn by popularity.
Every item has about ten events, so that a million items take ten million.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import polars as pl

import longrec

EVENTS = 100
"""Events of a user."""
PER_ITEM = 10
TOPIC, TOPICS, SESSION = 500, 3, 8
NEXT, NOISE = 0.5, 0.05


def made_up_log(items: int, seed: int = 0) -> pl.DataFrame:
    """Events (user, item, time) of items * PER_ITEM / EVENTS users, user by user."""
    rng = np.random.default_rng(seed)
    users, topics = items * PER_ITEM // EVENTS, max(TOPICS, items // TOPIC)
    size = items // topics
    weight = 1 / np.arange(1, size + 1) ** 0.7
    cumulative = np.cumsum(weight) / weight.sum()
    own = rng.integers(topics, size=(users, TOPICS))
    chosen = np.empty((users, EVENTS), np.int64)
    topic, place = own[:, 0], np.zeros(users, np.int64)
    for at in range(EVENTS):
        starts = rng.random(users) < 1 / SESSION
        topic = np.where(starts, own[np.arange(users), rng.integers(TOPICS, size=users)], topic)
        drawn = np.searchsorted(cumulative, rng.random(users))
        follows = ~starts & (rng.random(users) < NEXT)
        place = np.where(follows, (place + 1) % size, np.minimum(drawn, size - 1))
        chosen[:, at] = topic * size + place
        noise = rng.random(users) < NOISE
        chosen[noise, at] = rng.integers(items, size=int(noise.sum()))
    return pl.DataFrame(
        {
            "user": np.repeat(np.arange(users), EVENTS),
            "item": chosen.ravel(),
            "time": np.tile(1_700_000_000 + 60 * np.arange(EVENTS), users),
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="A made-up log, and a model trained on it.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--minutes", type=float, default=12.0)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    histories = longrec.prepare(made_up_log(given.items), given.folder / "histories", time_unit="s")
    longrec.train(
        histories,
        model="elastic",
        out=given.folder / "run",
        loss="sampled",
        negatives=1024,
        batch_tokens=8000,
        learning_rate=0.003,
        max_minutes=given.minutes,
        validation_users=500,
    )


if __name__ == "__main__":
    main()
