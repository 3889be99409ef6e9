"""Which events of a history are drawn as targets, where not every event but the first is one.

`Masking` hides events within a row, which a bidirectional model predicts from those around them;
`Prefixes` ends rows at drawn events, each to predict the event after it. Both draw with a generator
that the caller has seeded, for all rows at once, without loops over rows or events.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longrec.core.arrays import Ints

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Masking:
    """A share of every row's events is hidden and predicted (BERT4Rec, arXiv 1904.06690).

    Attributes
    ----------
    share : chance of each event to be hidden; where none of a row is, one drawn event is.
    last : chance of a row to have its last event hidden and no other, as it is when serving.
    """

    share: float
    last: float

    def hide(self, random: np.random.Generator, lengths: Ints) -> Bools:
        """(B, T) True at hidden events, of rows with `lengths` (B,) events, T the most of them."""
        event = np.arange(int(lengths.max(initial=1)))
        real = event < lengths[:, None]
        drawn = np.where(real, random.random(real.shape), 2.0)
        # The event of the lowest number is hidden in any case: each is equally likely to be it.
        hidden: Bools = real & (drawn <= np.maximum(self.share, drawn.min(1, keepdims=True)))
        only_last = random.random(len(lengths)) < self.last
        hidden[only_last] = event == lengths[only_last, None] - 1
        return hidden

    def expected(self, lengths: Ints) -> float:
        """Events hidden in rows of these lengths, on average."""
        drawn = lengths * self.share + (1 - self.share) ** lengths
        return float(((1 - self.last) * drawn + self.last)[lengths > 0].sum())


@dataclass(frozen=True)
class Prefixes:
    """A few beginnings of every history, each predicting the event after it.

    Attributes
    ----------
    number : prefixes per history, all different; fewer where the history has not so many.
    """

    number: int

    def counts(self, most: Ints) -> Ints:
        """(n,) prefixes drawn of histories with `most` (n,) possible ones."""
        return np.minimum(most, self.number)

    def draw(self, random: np.random.Generator, most: Ints) -> tuple[Ints, Ints]:
        """Draw prefixes of histories that have `most` (n,) of them, 1 event long to most[i].

        The possible lengths are read as a circle that is cut at a drawn place into as many equal
        arcs as prefixes are wanted; one length is drawn of each arc. So every length is equally
        likely, none comes twice, and the drawn ones spread over the history.

        Returns
        -------
        tuple of (m,) int64
            Which history each prefix is of, in rising order, and its length in events.
        """
        counts = self.counts(most)
        history = np.repeat(np.arange(len(most)), counts)
        arc = np.arange(len(history)) - np.repeat(counts.cumsum() - counts, counts)
        circle, arcs = most[history], counts[history]
        cut = random.integers(np.maximum(most, 1))[history]
        place = random.integers(arc * circle // arcs, (arc + 1) * circle // arcs)
        return history, (place + cut) % circle + 1
