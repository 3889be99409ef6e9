"""Count transitions in several ways, and say how well a run's validation targets are served.

    python benchmarks/transitions_counted.py HISTORIES RUN

RUN is a network that was trained on these histories. For each way of counting, the weight is
searched as training does it, and NDCG@10 of the validation targets as served printed: they alone
are looked at. The ways: how many last items are read, how further ones count, other priors and
numbers of followers, what stood before an item as well as after it, and with times, pairs of one
session alone (no gap of more than some minutes between two events) or only last items of the
session that the last event belongs to.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import longrec
from longrec.core.arrays import Ints
from longrec.data.histories import Histories
from longrec.data.splits import make_split, training_events
from longrec.models.transitions import TransitionsScore
from longrec.training.transitions import FEWEST, MOST_SCORES, Known
from longrec.training.validation import draw_targets

READ = {"last": 10, "decay": 0.8}
SETTINGS: tuple[dict[str, Any], ...] = (
    {"last": 5, "decay": 0.6},
    *({"last": last, "decay": decay} for last, decay in ((2, 0.6), (20, 0.9), (50, 0.95))),
    *(READ | {"prior": prior} for prior in (2.0, 5.0, 80.0)),
    *(READ | {"followers": most} for most in (30, 100, 10**9)),
)
SESSIONS = (10, 30, 24 * 60)
"""Minutes of the longest gap within a session."""


@dataclass(frozen=True, eq=False)
class OfSession(Known):
    """Last items alone that no gap of more than `gap` seconds parts from the last event."""

    gap: int = 0

    def recent(self, begin: Ints, end: Ints, reach: int) -> Tensor:
        recent = super().recent(begin, end, reach)
        assert self.histories.times is not None
        at = np.maximum(end[:, None] - 1 - np.arange(reach), begin[:, None])
        times = self.histories.times[at]
        parted = np.pad(times[:, :-1] - times[:, 1:] > self.gap, ((0, 0), (1, 0)))
        return recent * torch.from_numpy(~np.logical_or.accumulate(parted, axis=1))


def main(path: str, run: str) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    histories, model = longrec.open_histories(path), longrec.load(run).model
    split = make_split("leave-one-out", histories)
    most = max(FEWEST, MOST_SCORES // (histories.n_items + 1))
    targets = draw_targets(split.validation, most, 0)
    known = Known.of(model, histories, targets, None)
    users = np.repeat(np.arange(len(histories.offsets) - 1), np.diff(histories.offsets))
    trains = training_events(histories.offsets, split.train_end)
    items = torch.from_numpy(histories.items[trains])

    def counted(lengths: Ints, events: Tensor = items, **settings: Any) -> TransitionsScore:
        of_rows = torch.from_numpy(lengths)
        return TransitionsScore.of(events, of_rows, histories.n_items, **settings).eval()

    def tell(name: str, score: TransitionsScore, by: Known = known) -> None:
        weight, quality = by.best_weight(score, "auto")
        print(f"{name:40s} {quality / len(targets):.5f} at weight {weight:g}", flush=True)

    whole = np.bincount(users[trains], minlength=len(histories.offsets) - 1)
    alone = known.quality(counted(whole, **READ), (0.0,), "auto")[0] / len(targets)
    print(f"{len(targets)} targets; the network alone {alone:.5f}")
    for settings in (READ, *SETTINGS):
        tell(", ".join(f"{k} {v:g}" for k, v in settings.items()), counted(whole, **settings))
    backwards = torch.cat([items, items.flip(0)])
    tell("before and after", counted(np.append(whole, whole[::-1]), backwards, **READ))
    for minutes, lengths in sessions(histories, users, trains):
        tell(f"pairs of one session, {minutes} min", counted(lengths, **READ))
        of_session = OfSession(*vars(known).values(), gap=60 * minutes)
        tell(f"last items of one session, {minutes} min", counted(whole, **READ), of_session)


def sessions(histories: Histories, users: Ints, trains: Ints) -> Iterator[tuple[int, Ints]]:
    """Minutes, and how many training events each session of that gap has."""
    if histories.times is None:
        return
    user, time = users[trains], histories.times[trains]
    for minutes in SESSIONS:
        begins = np.ones(len(user), np.bool_)
        begins[1:] = (user[1:] != user[:-1]) | (np.diff(time) > 60 * minutes)
        yield minutes, np.diff(np.append(np.flatnonzero(begins), len(user)))


if __name__ == "__main__":
    main(*sys.argv[1:])
