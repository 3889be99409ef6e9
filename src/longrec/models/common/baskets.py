"""Who has what: the items of each user, and how many users two items have in common."""

from __future__ import annotations

from collections.abc import Iterator
from warnings import catch_warnings, simplefilter

import numpy as np
import torch
from torch import Tensor

from longrec.models.common.followers import ranges

PAIRS_AT_ONCE = 1 << 22
"""Pairs of items that are found at once, some 30 bytes each."""


class Baskets:
    """The items of each user, each once, whatever their order.

    It takes some 60 bytes an event, and twice that while it is made.

    Parameters
    ----------
    items : Tensor
        (n,) item indices, one history after the other, int32 or int64.
    lengths : Tensor
        (users,) int64, events of each history.
    n_items : int
        Items of the catalog.

    Attributes
    ----------
    users : (n_items + 1,) float64, how many users each item has.
    """

    def __init__(self, items: Tensor, lengths: Tensor, n_items: int) -> None:
        lengths = lengths.cpu()
        owner = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        pairs = torch.unique(owner * (n_items + 1) + items.cpu())
        owner, item = pairs // (n_items + 1), pairs % (n_items + 1)
        self._size = (len(lengths), n_items + 1)
        self._of_users = _matrix(owner, item, self._size)
        order = item.argsort(stable=True)
        self._item, self._owner = item[order], owner[order]
        self.users = torch.bincount(item, minlength=n_items + 1).double()

    def in_common(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """How many users have both of two items, of all pairs of items for which there are some.

        It takes as many steps as users have pairs of items, and memory for `PAIRS_AT_ONCE`, however
        many users and items there are.

        Yields
        ------
        (Tensor, Tensor, Tensor)
            Items a, items b and the number of their users, float64, (m,) each: a run of items a
            with all their b, in the order of both; a itself is among its b.
        """
        users, width = self._size
        if not len(self._item):
            return
        basket = torch.bincount(self._owner, minlength=users).double()
        # An item has no more others than there are, however many items its users have.
        most = torch.bincount(self._item, basket[self._owner], width).clamp_max(width)
        starts = np.append(0, self.users.long().numpy().cumsum())
        for low, high in ranges(most.long().numpy(), PAIRS_AT_ONCE):
            part = slice(starts[low], starts[high])
            some = _matrix(self._item[part] - low, self._owner[part], (high - low, users))
            with catch_warnings():  # of a form of matrices that torch uses inside, "in beta"
                simplefilter("ignore", UserWarning)
                found = torch.sparse.mm(some, self._of_users).coalesce()
            one, other = found.indices()
            yield one + low, other, found.values()


def _matrix(row: Tensor, column: Tensor, size: tuple[int, int]) -> Tensor:
    """A sparse matrix of ones, whose places (row, column) ascend, each once.

    In coordinates: the products of compressed rows need a library that not every build has.
    """
    ones = torch.ones(len(row), dtype=torch.float64)
    return torch.sparse_coo_tensor(
        torch.stack([row, column]), ones, size, is_coalesced=True, check_invariants=False
    )
