"""Models that sum up what each of a user's last items says for an item, each item once.

    score(user, i) = sum over k < K of d^k w(x_k -> i)

with x_k the user's last items, x_0 the latest. One that occurs again counts once, where it stands
latest. Items of which nothing is said stand just below 0, by popularity; all at 0 they would stand
in the order of the catalog:

    bias_i = -(1 + number of items with more training events) / 2^24

The rows take it back where something is said. All of this is exact in float32 and float64, so that
items that tie where scores are shown tie where they are ranked.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from longrec.models.common.base import AddedRows, CountingModel, rows_in_blocks
from longrec.models.common.followers import check_numbers


class LastItemsModel(CountingModel):
    """A bias by popularity, and rows that are sums over a user's last items.

    Attributes
    ----------
    decay : what each item further back counts, of the one after it.
    counts : (n_items + 1,) int64, training events of each item.
    """

    decay: float
    counts: Tensor

    def add(self, total: Tensor, last: Tensor, weight: Tensor) -> None:
        """Add to total (n, n_items + 1) what an item of each user, last (n,), says, by weight (n,).

        In float64, and the product before the sum: an export's reader does the same.
        """
        raise NotImplementedError

    def count_events(self, items: Tensor) -> None:
        """Count the events of each item."""
        self.counts = torch.bincount(items, minlength=self.n_items + 1)

    def check_counts(self) -> None:
        check_numbers(self, ("counts",), (self.n_items + 1,))

    def bias(self) -> Tensor:
        ascending = self.counts[1:].sort().values
        more = self.n_items - torch.searchsorted(ascending, self.counts[1:], right=True)
        return torch.nn.functional.pad(-(1.0 + more.double()) / (1 << 24), (1, 0))

    def rows(self, recent: Tensor) -> AddedRows:
        return rows_in_blocks(partial(self._rows, bias=self.bias()), recent, self.n_items)

    def _rows(self, recent: Tensor, start: int, bias: Tensor) -> AddedRows:
        """The rows of some users, the first of whom has number `start`."""
        total = recent.new_zeros(len(recent), self.n_items + 1, dtype=torch.float64)
        for k in range(self.reach):
            last = recent[:, k]
            again = (recent[:, :k] == last[:, None]).any(1)
            self.add(total, last, ((last > 0) & ~again).double() * self.decay**k)
        row, item = total.nonzero().unbind(1)
        return AddedRows(row + start, item, total[row, item].float().double() - bias[item])
