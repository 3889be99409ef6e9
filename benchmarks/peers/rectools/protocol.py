"""longrec's protocol without longrec: which events train, and how targets are ranked.

Leave-one-out, the whole catalog, seen items filtered, ties against the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]

TEST, VALIDATION = 1, 2
"""Where the target stands, counted from the end of a history."""
USERS_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class Log:
    """Histories: user u has items[offsets[u] : offsets[u + 1]], numbered from 1."""

    items: Ints
    offsets: Ints

    @property
    def n_items(self) -> int:
        """Items in the catalog."""
        return int(self.items.max())

    @property
    def evaluated(self) -> Ints:
        """Users with three events or more."""
        return np.flatnonzero(np.diff(self.offsets) >= 3)

    def training(self) -> tuple[Ints, Ints]:
        """Places of the events that train, and their users; those of short histories all train."""
        lengths = np.diff(self.offsets)
        owner = np.repeat(np.arange(len(lengths)), lengths)
        left = self.offsets[owner + 1] - np.arange(len(owner))
        places = np.flatnonzero((lengths[owner] < 3) | (left > VALIDATION))
        return places, owner[places]


def read_log(path: Path, user: str, item: str, order: str) -> Log:
    """A Parquet log, each user's events sorted by `order`; ties keep the order of rows."""
    events = pd.read_parquet(path, columns=[user, item, order])
    events = events.sort_values([user, order], kind="stable")
    owner = pd.factorize(events[user], sort=True)[0]
    items = pd.factorize(events[item], sort=True)[0] + 1
    return Log(items, np.append(0, np.bincount(owner).cumsum()))


def ranks(
    log: Log, place: int, inside: Ints, window: int, score: Callable[[Tensor], Tensor]
) -> Ints:
    """Rank the target of every evaluated user, 1 at best.

    Parameters
    ----------
    log : Log
    place : int
        TEST or VALIDATION; what is read are the events before the target.
    inside : (n_items + 1,)
        A model's own numbers of the log's items, from 1; 0 where it has no vector of one. Such an
        item is not read, and misses as a target.
    window : int
        The last events that the model reads.
    score : callable
        The model's scores (B, its items + 1) of histories (B, window) padded at the front.
    """
    found = []
    for low in range(0, len(log.evaluated), USERS_AT_ONCE):
        users = log.evaluated[low : low + USERS_AT_ONCE]
        ends = log.offsets[users + 1] - place
        read = np.zeros((len(users), window), np.int64)
        histories = [
            inside[log.items[log.offsets[u] : e]] for u, e in zip(users, ends, strict=True)
        ]
        for row, history in enumerate(histories):
            stored = history[history > 0][-window:]
            read[row, window - len(stored) :] = stored
        scores = score(torch.from_numpy(read)).numpy()
        barred = np.zeros(scores.shape, np.bool_)
        for row, history in enumerate(histories):
            barred[row, history] = True
        targets, rows = inside[log.items[ends]], np.arange(len(users))
        barred[:, 0] = True  # padding
        barred[rows, targets] = False
        # "not below" rather than "above or equal": what is not a number stands before the target.
        before = ~(scores < scores[rows, targets][:, None]) & ~barred
        found.append(np.where(targets > 0, before.sum(1), log.n_items + 1))
    return np.concatenate(found)


def metrics(rank: Ints) -> dict[str, float]:
    """Mean NDCG@10 and HR@10."""
    hit = rank <= 10
    return {"ndcg@10": float((hit / np.log2(rank + 1)).mean()), "hr@10": float(hit.mean())}
