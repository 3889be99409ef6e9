"""What fresh counts bring: transitions alone on a log's last tenth, counted as of three moments.

    longrec prepare LOG.parquet --out histories
    python benchmarks/fresh_counts.py histories [--users SHARE] [--last 5] [--decay 0.6]

Prequential: each event of the last tenth, in order of time, is a target, ranked among all items
before it is counted. The user's last items are those before it in all three, as a stream has them;
what followed what is counted as of the training cut (the beginning of the last tenth), as of the
beginning of the event's day, or as of the beginning of its minute. An event with an item that was
in no event before the cut counts like any other: a shop knows its new items. Ties are against the
model. "hidden": seen items are left out, and a repeat is a miss; "shown": they are not. Only
aggregates are printed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch

from longrec.core.arrays import Ints, places
from longrec.core.console import table
from longrec.data.histories import Histories, open_histories
from longrec.inference.encode import last_items
from longrec.models.common.followers import distance_weights
from longrec.models.common.pairs import Pairs, summed
from longrec.models.transitions import TransitionsScore, TransitionsScoreConfig

DAY, MINUTE = 86_400, 60
WAYS = {"training cut": None, "day-old": DAY, "minute-fresh": MINUTE}
MOST_NEW = 200_000
"""Pairs that are counted beside a table before they are put into it."""
AT_ONCE, K = 256, 10


class Log(NamedTuple):
    """Events user by user: items and times (n,), and of each the place of its user's first."""

    items: Ints
    times: Ints
    begins: Ints
    n_items: int

    @classmethod
    def of(cls, histories: Histories) -> Log:
        lengths = np.diff(histories.offsets)
        begins = np.repeat(histories.offsets[:-1], lengths)
        assert histories.times is not None, "the log has no times"
        items, times = histories.items.astype(np.int64), np.asarray(histories.times)
        return cls(items, times, begins, histories.n_items)

    def counted(self, ends: Ints, weights: np.ndarray) -> tuple[Ints, Pairs]:
        """What events at these places count: of each item how often, and the pairs they end."""
        keys, times = [], []
        for distance, weight in enumerate(weights.tolist(), 1):
            of = ends[ends - distance >= self.begins[ends]]
            keys.append(self.items[of - distance] * (self.n_items + 1) + self.items[of])
            times.append(np.full(len(of), weight))
        counts = np.bincount(self.items[ends], minlength=self.n_items + 1)
        return counts, Pairs(*summed(np.concatenate(keys), np.concatenate(times)))


class Tables:
    """A large table, and a small one of what is new since: both together are what is counted."""

    def __init__(self, whole: TransitionsScore) -> None:
        self.whole, self._nothing = whole, TransitionsScore(whole.config, whole.n_items)
        self.new = self._nothing

    def add(self, counts: Ints, pairs: Pairs) -> None:
        self.new = self.new.counting(counts, pairs)
        if len(self.new.times) > MOST_NEW:
            n_items, new = self.whole.n_items, self.new
            rows = np.repeat(np.arange(n_items + 1), np.diff(new.starts.numpy()))
            key = rows * (n_items + 1) + new.followers.numpy()
            self.whole = self.whole.counting(new.counts.numpy(), Pairs(key, new.times.numpy()))
            self.new = self._nothing

    def shares(self) -> np.ndarray:
        """p of all items; of padding 0."""
        counts = (self.whole.counts + self.new.counts).double().numpy() + 1
        counts[0] = 0
        found: np.ndarray = counts / counts.sum()
        return found

    def mixed(self, recent: torch.Tensor) -> tuple[Ints, np.ndarray, np.ndarray]:
        """Keys row (n_items + 1) + item, ascending, what the rows add to their c, and `left`."""
        config, n = self.whole.config, len(recent)
        left, keys, values = np.zeros(n), [], []
        for k in range(config.last):
            last = recent[:, k]
            totals = (self.whole.totals[last] + self.new.totals[last]).numpy()
            weight = (last > 0).numpy() * config.decay**k / (totals + config.prior)
            left += weight * config.prior
            for one in (self.whole, self.new):
                row, item, times = (part.numpy() for part in one.followers_of(last))
                keys.append(row * (self.whole.n_items + 1) + item)
                values.append(weight[row] * times)
        left[left == 0] = 1  # nobody's last items are known: by popularity
        return *summed(np.concatenate(keys), np.concatenate(values)), left


def ranks(log: Log, tables: Tables, targets: Ints) -> tuple[Ints, Ints]:
    """Ranks from 1 of targets at these places, seen items hidden and shown; hidden, 0 is a miss."""
    shares, width = tables.shares(), log.n_items + 1
    ordered = np.sort(shares[1:])
    hidden, shown = np.zeros(len(targets), np.int64), np.zeros(len(targets), np.int64)
    for start in range(0, len(targets), AT_ONCE):
        at = targets[start : start + AT_ONCE]
        rows = np.arange(len(at))
        recent = last_items(log.items, log.begins[at], at, tables.whole.config.last)
        key, more, left = tables.mixed(recent)

        def score(row: Ints, item: Ints, key: Ints = key, more=more, left=left) -> np.ndarray:  # type: ignore[no-untyped-def]
            found = left[row] * shares[item]
            if len(key):
                place = np.searchsorted(key, row * width + item).clip(max=len(key) - 1)
                found = found + np.where(key[place] == row * width + item, more[place], 0)
            return found  # type: ignore[no-any-return]

        wanted = log.items[at]
        own = score(rows, wanted)
        row, item = key // width, key % width
        alone = left[row] * shares[item]
        above = len(ordered) - np.searchsorted(ordered, own / left * (1 - 1e-12))
        changed = (alone + more >= own[row]).astype(np.int64) - (alone >= own[row] * (1 - 1e-12))
        shown_here = (above + np.bincount(row, changed, len(at))).astype(np.int64)
        lengths = at - log.begins[at]
        owner = np.repeat(rows, lengths)
        seen = np.unique(owner * width + log.items[places(log.begins[at], lengths)])
        owner, item = seen // width, seen % width
        repeated = np.bincount(owner[item == wanted[owner]], minlength=len(at)) > 0
        fewer = np.bincount(owner[score(owner, item) >= own[owner]], minlength=len(at))
        shown[start : start + len(at)] = shown_here
        hidden[start : start + len(at)] = np.where(repeated, 0, shown_here - fewer)
    return hidden, shown


def ndcg(rank: Ints) -> np.ndarray:
    """NDCG@10 of each target; 0 where the rank is 0."""
    good = (rank > 0) & (rank <= K)
    found: np.ndarray = np.where(good, 1 / np.log2(np.maximum(rank, 1) + 1), 0)
    return found


def main() -> None:
    """Rank the last tenth of a log three times, and print what each way reaches."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("histories", type=Path)
    parser.add_argument("--users", type=float, default=1.0, help="share of users who are ranked")
    parser.add_argument("--last", type=int, default=5)
    parser.add_argument("--decay", type=float, default=0.6)
    given = parser.parse_args()
    torch.set_num_threads(1)
    log = Log.of(open_histories(given.histories))
    config = TransitionsScoreConfig(last=given.last, decay=given.decay)
    weights = distance_weights(given.last, given.decay)
    cut = np.quantile(log.times, 0.9, method="higher")
    trained = TransitionsScore(config, log.n_items).counting(
        *log.counted(np.flatnonzero(log.times < cut), weights)
    )
    late = np.flatnonzero(log.times >= cut)
    late = late[np.argsort(log.times[late], kind="stable")]
    firsts = np.unique(log.begins)
    few = np.random.default_rng(0).random(len(firsts)) < given.users
    asked = few[np.searchsorted(firsts, log.begins)]
    rows = []
    for name, step in WAYS.items():
        began, tables, found = perf_counter(), Tables(trained), []
        moments = np.zeros(len(late), np.int64) if step is None else log.times[late] // step
        for events in np.split(late, np.flatnonzero(np.diff(moments)) + 1):
            if len(targets := events[asked[events]]):
                found.append(ranks(log, tables, targets))
            if step is not None:
                tables.add(*log.counted(events, weights))
        hidden, shown = (np.concatenate(part) for part in zip(*found, strict=True))
        figures = [f"{ndcg(rank).mean():.4f}" for rank in (hidden, shown)]
        rows.append([name, *figures, f"{len(shown):,}", f"{perf_counter() - began:.0f}"])
    new = ~np.isin(log.items[late], np.flatnonzero(trained.counts.numpy()))
    titles = ["counted as of", "NDCG@10, hidden", "NDCG@10, shown", "targets", "seconds"]
    table(
        f"{given.histories}: {100 * new.mean():.1f}% of late events are of items new since",
        titles,
        rows,
    )


if __name__ == "__main__":
    main()
