"""Transitions: items by what followed the user's last few events in training.

    n(a -> i) = sum over k = 1 .. K of delta^(k-1) (how often i stood k events after a)
    c(i)     ~  sum over k = 0 .. K-1 of delta^k (n(x_{T-k} -> i) + rho p_i) / (n(x_{T-k}) + rho)

with K `last`, delta `decay`, rho `prior`, n(a) the sum of n(a -> i) over i, and p_i the share of i
in all events, each item having been given one more. In n the powers of delta are rounded to
multiples of 2^-20: its sums are exact then, in whichever order events are counted. The score is
log c(i), less what all items of a user share: log p_i, the bias, and where something followed the
last K items, in the rows,

    log(1 + rest_i / (left p_i))    rest_i = sum_k delta^k n(x_{T-k} -> i) / (n(x_{T-k}) + rho)
                                    left = sum_k delta^k rho / (n(x_{T-k}) + rho)

The same counts are a model, and a score to add to any other's. The rows are NumPy's logarithms on
any device, as those that read an export make them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Annotated, Any, Self

import numpy as np
import torch
from torch import Tensor

from longrec.config.border import make_config
from longrec.core.arrays import Ints
from longrec.core.bounds import MOST, Bounds
from longrec.models.common.added_score import AddedScore, register_added_score
from longrec.models.common.base import AddedRows, CountingModel, rows_in_blocks
from longrec.models.common.followers import Followers, check_numbers
from longrec.models.common.pairs import Pairs
from longrec.models.common.registry import register_model

DENSE = 20
"""Cells per pair up to which it is quicker to sum pairs up in all cells than to sort them."""


@dataclass(frozen=True)
class TransitionsConfig:
    """Settings of what follows the last events.

    Attributes
    ----------
    last : how many last events are read, and how many after an event count as following it.
    decay : what each event further away counts, of the one before.
    prior : events by popularity that every item's followers are mixed with.
    followers : most followers of an item that are kept, the most frequent: a search looks at those
        of the last items one by one. What is cut counts by its popularity.
    """

    last: Annotated[int, Bounds(ge=1, le=100)] = 5
    decay: Annotated[float, Bounds(gt=0, le=1)] = 0.6
    prior: Annotated[float, Bounds(ge=1e-3, le=MOST)] = 20.0
    followers: Annotated[int, Bounds(ge=1, le=MOST)] = 300


@dataclass(frozen=True)
class TransitionsScoreConfig(TransitionsConfig):
    """Settings of the added score `transitions`.

    Attributes
    ----------
    weight : what the logarithm of an item's share among the followers is multiplied by.
    """

    weight: float = 1.0


@register_added_score("transitions")
class TransitionsScore(Followers, AddedScore):
    """weight * log c(i): by what followed the user's last few events in training."""

    config_class = TransitionsScoreConfig
    counts: Tensor
    totals: Tensor

    def __init__(self, config: TransitionsScoreConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.reach = config.last
        self._whole: tuple[Tensor, float] | None = None
        self.make_room(n_items)
        self.register_buffer("counts", torch.zeros(n_items + 1, dtype=torch.int64))
        self.register_buffer("totals", torch.zeros(n_items + 1, dtype=torch.float64))

    @classmethod
    def of(cls, items: Tensor, lengths: Tensor, n_items: int, **settings: Any) -> Self:
        """Counted from training events.

        Parameters
        ----------
        items : Tensor
            (n,) item indices, one history after the other, int32 or int64.
        lengths : Tensor
            (users,) int64, events of each history.
        n_items : int
            Items of the catalog.
        settings
            Of `TransitionsScoreConfig`.
        """
        made = cls(make_config(TransitionsScoreConfig, settings), n_items)
        made.count(items, lengths)
        return made

    def weighted(self, weight: float) -> Self:
        """The same counts, shared and not copied, at another weight."""
        settings = asdict(self.config) | {"weight": weight}
        made = type(self)(make_config(TransitionsScoreConfig, settings), self.n_items)
        for name, counted in self.named_buffers():
            setattr(made, name, counted)
        return made.eval()

    def count(self, items: Tensor, lengths: Tensor) -> None:
        """Count anew; see `CountingModel.count`."""
        self.counts = torch.bincount(items, minlength=self.n_items + 1)
        settings = self.config
        self.totals = self.count_followers(
            items, lengths, settings.last, settings.decay, settings.followers
        )

    def check_counts(self) -> None:
        if tuple(self.starts.shape) != (self.n_items + 2,):
            raise ValueError(
                f"starts has shape {tuple(self.starts.shape)}; it must be ({self.n_items + 2},)"
            )
        check_numbers(self, ("counts", "totals"), (self.n_items + 1,))
        self.check_followers()

    @property
    def events(self) -> int:
        """How many were counted."""
        return int(self.counts.sum())

    def counting(self, counts: Ints, pairs: Pairs) -> Self:
        """What it is with further events counted, to the bit as if all were counted at once.

        No follower is cut, neither here nor of what it gives: `served` does that.

        Parameters
        ----------
        counts : ndarray
            (n_items + 1,) further events of each item.
        pairs : Pairs
            What came after what by them, at the `distance_weights` of its settings.
        """
        made = type(self)(self.config, self.n_items).to(self.counts.device)
        made.counts = self.counts + torch.from_numpy(counts).to(self.counts.device)
        made.starts, made.followers, made.times = self.joined(pairs)
        made.totals = made._sums_of_rows()
        return made.eval()

    def served(self) -> Self:
        """A table in which nothing is cut yet, as it serves: as `count` would have made it."""
        made = self.weighted(self.config.weight)
        made.cut(self.config.followers)
        return made

    def restore(self, counted: Mapping[str, Tensor]) -> None:
        """Take over the buffers of a table of the same settings, but for the totals."""
        for name, tensor in counted.items():
            setattr(self, name, tensor)
        self.totals = self._sums_of_rows()

    def shares(self, items: Tensor | None = None) -> Tensor:
        """p of some items, or of all (n_items + 1,), that of padding being nothing real."""
        if self._whole is None or self._whole[0] is not self.counts:  # a million take a while
            self._whole = self.counts, float(self.counts[1:].sum() + self.n_items)
        whole = self._whole[1]
        return ((self.counts if items is None else self.counts[items]).double() + 1) / whole

    def bias(self) -> Tensor:
        bias = self.config.weight * np.log(self.shares().cpu().numpy())
        bias[0] = 0
        return torch.from_numpy(bias).to(self.counts.device)

    def rows(self, recent: Tensor) -> AddedRows:
        return rows_in_blocks(self._rows, recent, self.n_items)

    def followed(self, recent: Tensor, item: int) -> Tensor:
        row, follower, times = self.followers_of(recent)
        found = times.new_zeros(len(recent))
        return found.index_add_(0, row[follower == item], times[follower == item])

    def _sums_of_rows(self) -> Tensor:
        sums = torch.cat([self.times.new_zeros(1), self.times]).cumsum(0)
        return sums[self.starts[1:]] - sums[self.starts[:-1]]

    def _rows(self, recent: Tensor, start: int) -> AddedRows:
        """The rows of some users, the first of whom has number `start`."""
        users, width = len(recent), self.n_items + 1
        last = recent.t().reshape(-1)  # the latest of all users, then those before, and so on
        decays = [self.config.decay**k for k in range(self.reach)]
        weight = torch.tensor(decays, dtype=torch.float64).repeat_interleave(users)
        weight = (last > 0) * weight.to(last.device)
        weight = weight / (self.totals[last].double() + self.config.prior)
        left = (weight * self.config.prior).view(self.reach, users).cumsum(0)[-1]
        at, item, times = self.followers_of(last)
        ends = torch.searchsorted(at, users * torch.arange(1, self.reach + 1, device=at.device))
        pair, rest = _sums(at % users * width + item, weight[at] * times, ends, users * width)
        row, item = pair.div(width, rounding_mode="floor"), pair % width
        ratio = rest / (left[row] * self.shares(item))
        value = torch.from_numpy(self.config.weight * np.log1p(ratio.cpu().numpy()))
        return AddedRows(row + start, item, value.to(recent.device))

    def with_items(self, n_items: int) -> Self:
        grown = type(self)(self.config, n_items).to(self.counts.device)
        grown.counts[: len(self.counts)] = self.counts
        grown.totals[: len(self.totals)] = self.totals
        grown.starts[: len(self.starts)] = self.starts
        grown.starts[len(self.starts) :] = len(self.followers)
        grown.followers, grown.times = self.followers, self.times
        return grown


def _sums(keys: Tensor, added: Tensor, ends: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """Sums by key, ascending, of parts that end at `ends`; keys, each once in a part, are below
    `cells`.

    Each sum takes the parts in their order, so that both ways, and any device, give the same bits.
    """
    if dense := cells <= DENSE * len(keys):
        found, at, size = keys, keys, cells
    else:
        found, at = keys.unique(return_inverse=True)
        size = len(found)
    sums = added.new_zeros(size)
    begin = 0
    for end in ends.tolist():
        sums[at[begin:end]] += added[begin:end]
        begin = end
    if dense:
        found = sums.nonzero()[:, 0]
        sums = sums[found]
    return found, sums


@register_model("transitions")
class Transitions(CountingModel):
    """Items by what followed the user's last five events in training, the latest counting most."""

    searched = MappingProxyType({"last": "1..20", "decay": "0.2..1", "prior": "1..200"})
    config_class = TransitionsConfig
    counted: TransitionsScore

    def __init__(self, config: TransitionsConfig, n_items: int) -> None:
        super().__init__()
        self.config, self.n_items = config, n_items
        self.counted = TransitionsScore(TransitionsScoreConfig(**asdict(config)), n_items)
        self.reach = config.last

    def count(self, items: Tensor, lengths: Tensor, times: Tensor | None = None) -> None:
        self.counted.count(items, lengths)

    def check_counts(self) -> None:
        self.counted.check_counts()

    def bias(self) -> Tensor:
        return self.counted.bias()

    def rows(self, recent: Tensor) -> AddedRows:
        return self.counted.rows(recent)

    def as_added_score(self, weight: float = 1.0) -> TransitionsScore:
        """The same counts as a score to add to another model's of the same catalog."""
        return self.counted.weighted(weight)
