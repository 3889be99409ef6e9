"""What a log is like, in counts, and what its events cost to train on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from longrec.data.histories import Histories
from longrec.data.splits import Split

WIDTH = 64
"""Of all models' defaults."""


@dataclass(frozen=True)
class LogStatistics:
    """What a log is like, as its training events and validation targets tell.

    Attributes
    ----------
    users, items, events : of the log.
    targets : training events that are predicted in an epoch, all but each user's first.
    middling : training events that half of the users have at most.
    per_item : training events by item of the catalog, on average.
    validated : validation targets.
    cold : share of these whose item no training event has.
    repeats : share of these whose item the user had before.
    """

    users: int
    items: int
    events: int
    targets: int
    middling: int
    per_item: float
    validated: int
    cold: float
    repeats: float

    @classmethod
    def of(cls, histories: Histories, split: Split) -> LogStatistics:
        """Those of histories that are cut by a protocol."""
        lengths, notes = split.train_end - histories.offsets[:-1], split.notes
        return cls(
            users=histories.n_users,
            items=histories.n_items,
            events=histories.n_events,
            targets=int(np.maximum(lengths - 1, 0).sum()),
            middling=int(np.median(lengths)) if len(lengths) else 0,
            per_item=round(float(lengths.sum()) / max(histories.n_items, 1), 2),
            validated=len(split.validation),
            cold=round(float(notes["validation_unseen_share"]), 4),
            repeats=round(float(notes["validation_repeat_share"]), 4),
        )

    @property
    def words(self) -> str:
        """In one line."""
        return (
            f"{self.targets:,} events to predict, {self.items:,} items with {self.per_item:,.3g} "
            f"training events each, half of the users with {self.middling:,} or fewer; of "
            f"{self.validated:,} validation targets {self.repeats:.1%} are repeats and "
            f"{self.cold:.1%} new items"
        )


def microseconds(statistics: LogStatistics, loss: str, dim: int) -> float:
    """What one target costs to train on one core, encoding, loss and backward.

    Measured at width 64: ML-1M 37 (3.4 thousand items), Beauty 67 and with the sampled loss 36 (12
    thousand), Food.com 188 and 41 (41 thousand), Globo sampled 41; at width 128 Beauty 120 and
    Food.com 253; at 256 Beauty 288. The formula has 38, 71, 182; 142, 364; 284. Sampled are 512
    negatives there, and 2,048 in the formula, which has 45 for all of them.
    """
    of_loss = 3.8e-3 * statistics.items if loss == "full" else 20
    return dim / WIDTH * (25 + of_loss)
