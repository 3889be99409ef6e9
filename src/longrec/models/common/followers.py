"""What followed each item in training, and how often: counted in bounded memory, kept sparse.

The counts are buffers in compressed rows: those of item a stand at starts[a] .. starts[a + 1] - 1
of `followers`, ascending, and of `times`.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from longrec.core.arrays import Ints
from longrec.models.common.base import AddedRows
from longrec.models.common.pairs import Pairs, firsts, summed

PAIRS_AT_ONCE = 1 << 22
"""Pairs of events sorted at once, some 25 bytes each."""
PARTS = 4
"""Into how many parts the pairs of a long log at one distance are sorted, the log being read over
for each."""
UNIT = 2.0**-20
"""What an event counts is a multiple of this, so that sums in float64 are exact, in any order, as
long as they are below 2^33."""


def take_stored_sizes(module: nn.Module, names: Iterable[str], stored: Any, prefix: str) -> None:
    """Give buffers the size and type in which they are stored: how much was counted is the data's.

    Parameters
    ----------
    module : nn.Module
        About to be loaded.
    names : iterable of str
        Of its buffers.
    stored : mapping of names to tensors
        A state dict; what it lacks stays as it is.
    prefix : str
        What the module's names begin with there.
    """
    for name in names:
        if prefix + name in stored:
            here = getattr(module, name).device  # where the model is, which may not be where it was
            setattr(module, name, torch.empty_like(stored[prefix + name], device=here))


def check_numbers(module: nn.Module, names: Iterable[str], shape: tuple[int, ...]) -> None:
    """Raise ValueError unless tensors have a shape, and numbers that are finite and not negative.

    Parameters
    ----------
    module : nn.Module
    names : iterable of str
        Of its buffers.
    shape : tuple of int
    """
    for name in names:
        tensor = getattr(module, name)
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; it must be {shape}")
        if tensor.numel() and not bool(((tensor >= 0) & tensor.isfinite()).all()):
            raise ValueError(f"{name} has numbers that are negative or not finite")


class Followers(nn.Module):
    """Counts of what followed each item, for counting models and added scores to inherit.

    Attributes
    ----------
    starts : (n_items + 2,) int64; of item 0, the padding, there are none.
    followers : (pairs,) integer, item indices.
    times : (pairs,) float, how often each followed, events further on counting less; float64 where
        `count_followers` counted them.
    """

    starts: Tensor
    followers: Tensor
    times: Tensor

    def make_room(self, n_items: int) -> None:
        """Register the buffers, of nothing counted yet."""
        self.register_buffer("starts", torch.zeros(n_items + 2, dtype=torch.int64))
        self.register_buffer("followers", torch.zeros(0, dtype=torch.int32))
        self.register_buffer("times", torch.zeros(0, dtype=torch.float64))

    def count_followers(
        self,
        items: Tensor,
        lengths: Tensor,
        reach: int = 1,
        decay: float = 1.0,
        most: int | None = None,
    ) -> Tensor:
        """Count n(a -> i) = sum over k = 1 .. reach of w_k times (i stood k after a).

        w_k is decay^(k - 1) rounded to a multiple of `UNIT`. Besides the events, a byte each and
        the counts that are kept (20 bytes a pair, 12 in the end), it takes some 25 bytes for each
        of `PAIRS_AT_ONCE`, or 6 bytes an event of a long log, which is then read over no more often
        than any other.

        Parameters
        ----------
        items : Tensor
            (n,) item indices, one history after the other, int32 or int64.
        lengths : Tensor
            (users,) int64, events of each history.
        reach : int
            How many events after an item count as following it.
        decay : float
            What each event further on counts, of the one before.
        most : int or None
            Followers of an item that are kept, as `cut` keeps them; None: all.

        Returns
        -------
        Tensor
            (n_items + 1,) float64, the sum of n(a -> i) over all i, of all that was counted.
        """
        n_items = len(self.starts) - 2
        log, ends = items.cpu().numpy(), lengths.cpu().numpy().cumsum()
        weights = distance_weights(reach, decay)
        reach = len(weights)
        followers: list[np.ndarray] = []
        times: list[np.ndarray] = []
        number = np.zeros(n_items + 2, np.int64)  # pairs of item a at a + 1
        totals = np.zeros(n_items + 1)
        events = torch.bincount(items, minlength=n_items + 1).cpu().numpy()
        at_once = max(PAIRS_AT_ONCE, len(log) // PARTS)
        for low, high in ranges(events * reach, at_once):
            key, counts = _count(log, ends, low, high, reach, n_items, at_once)
            if not len(key):
                continue
            first = firsts(key // reach)
            pair = key[first] // reach
            owner, after = np.divmod(pair, n_items + 1)
            counted = np.add.reduceat(counts * weights[key % reach], first)
            here = np.bincount(owner, minlength=high - low)
            totals[low:high] = np.bincount(owner, counted, minlength=high - low)
            after = after.astype(np.int32)
            if most is not None:
                here, after, counted = most_frequent(here, after, counted, most)
            followers.append(after)
            times.append(counted)
            number[low + 1 : high + 1] = here
        device = self.starts.device
        self.starts = torch.from_numpy(number.cumsum()).to(device)
        self.followers = torch.from_numpy(_joined(followers, np.int32)).to(device)
        self.times = torch.from_numpy(_joined(times, np.float64)).to(device)
        return torch.from_numpy(totals).to(device)

    def cut(self, most: int) -> None:
        """Keep of each item its `most` frequent followers; of equals those of smaller index."""
        starts, followers, times = (
            x.cpu().numpy() for x in (self.starts, self.followers, self.times)
        )
        number, followers, times = most_frequent(np.diff(starts), followers, times, most)
        device = self.starts.device
        self.starts = torch.from_numpy(np.pad(number.cumsum(), (1, 0))).to(device)
        self.followers = torch.from_numpy(followers).to(device)
        self.times = torch.from_numpy(times).to(device)

    def joined(self, pairs: Pairs) -> tuple[Tensor, Tensor, Tensor]:
        """`starts`, `followers` and `times` with what further pairs count; its own stay."""
        width = len(self.starts) - 1
        starts, followers, times = (
            x.cpu().numpy() for x in (self.starts, self.followers, self.times)
        )
        # By PyTorch, which lets other threads go on meanwhile: NumPy's repeat does not.
        rows = torch.repeat_interleave(torch.arange(width), torch.from_numpy(np.diff(starts)))
        key = (rows * width + torch.from_numpy(followers)).numpy()
        at = np.searchsorted(key, pairs.key)
        here = at < len(key)
        here[here] = key[at[here]] == pairs.key[here]
        times = times.copy()
        times[at[here]] += pairs.times[here]
        at, new = at[~here], pairs.key[~here]
        starts = starts + np.pad(np.bincount(new // width, minlength=width).cumsum(), (1, 0))
        followers, times = (
            np.insert(followers, at, new % width),
            np.insert(times, at, pairs.times[~here]),
        )
        device = self.starts.device
        made = [torch.from_numpy(x).to(device) for x in (starts, followers, times)]
        return made[0], made[1], made[2]

    def check_followers(self) -> None:
        """Raise ValueError unless the buffers are a table of followers."""
        starts, followers, pairs = self.starts, self.followers, len(self.times)
        width = len(starts) - 1  # the model's own size, as it was built
        if starts.ndim != 1 or starts.is_floating_point() or bool((starts[:2] != 0).any()):
            raise ValueError("starts are no integers that begin with 0, 0")
        if bool((starts.diff() < 0).any()) or int(starts[-1]) != pairs:
            raise ValueError(f"starts do not ascend to the {pairs:,} pairs that there are")
        if followers.is_floating_point():
            raise ValueError("followers are no integers")
        check_numbers(self, ("followers", "times"), (pairs,))
        if pairs and not (int(followers.min()) > 0 and int(followers.max()) < width):
            raise ValueError(f"followers has an item that is none of 1 to {width - 1}")
        ascending = followers.diff() > 0
        firsts = starts[(starts > 0) & (starts < pairs)] - 1
        ascending[firsts] = True  # from the last of a row to the first of the next
        if not bool(ascending.all()):
            raise ValueError("followers of an item do not ascend, each once")

    def followers_of(self, last: Tensor) -> AddedRows:
        """What followed items (n,) and how often, of each its followers; none followed item 0."""
        number = self.starts[last + 1] - self.starts[last]
        row = torch.repeat_interleave(torch.arange(len(last), device=last.device), number)
        before = number.cumsum(0) - number
        pair = torch.arange(len(row), device=last.device) + (self.starts[last] - before)[row]
        return AddedRows(row, self.followers[pair].long(), self.times[pair].double())

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        take_stored_sizes(self, ("followers", "times"), state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def distance_weights(reach: int, decay: float) -> np.ndarray:
    """What events count that stand 1, 2, … after an item; as many as count anything."""
    weights: np.ndarray = np.rint(decay ** np.arange(reach) / UNIT) * UNIT
    return weights[weights > 0]


def most_frequent(
    number: Ints, followers: np.ndarray, times: np.ndarray, most: int
) -> tuple[Ints, np.ndarray, np.ndarray]:
    """Of rows of so many followers each the `most` frequent; of equals those of smaller index.

    Returns
    -------
    (Ints, ndarray, ndarray)
        How many are left of each row (n,), and they and their times.
    """
    long = number > most
    if not long.any():
        return number, followers, times
    at = np.flatnonzero(np.repeat(long, number))
    sizes, values = number[long], times[at]
    row = np.repeat(np.arange(len(sizes)), sizes)
    # A row's keys ascend as times fall; sorted by value, which is quick, they give its last one.
    different = np.unique(values)
    key = (row + 1) * len(different) - 1 - np.searchsorted(different, values)
    last = np.sort(key)[sizes.cumsum() - sizes + most - 1]
    kept = key < last[row]
    room = most - np.bincount(row[kept], minlength=len(sizes))
    ties = np.flatnonzero(key == last[row])
    of = row[ties]
    kept[ties[np.arange(len(of)) - np.searchsorted(of, of) < room[of]]] = True
    every = np.ones(len(times), np.bool_)
    every[at] = kept
    return np.minimum(number, most), followers[every], times[every]


def ranges(pairs: Ints, at_once: int) -> list[tuple[int, int]]:
    """Runs low .. high - 1 of items 1, 2, … of at most so many pairs, or of one item."""
    bounds, sums = [1], pairs.cumsum()
    while bounds[-1] < len(pairs):
        most = sums[bounds[-1] - 1] + at_once
        bounds.append(max(bounds[-1] + 1, int(np.searchsorted(sums, most, side="right"))))
    return list(pairwise(bounds))


def _count(
    log: np.ndarray, ends: Ints, low: int, high: int, reach: int, n_items: int, at_once: int
) -> tuple[Ints, Ints]:
    """How often items stood 1 .. reach events after items low .. high - 1.

    Returns
    -------
    (Ints, Ints)
        Keys, ascending, each once, and their counts. The key of i that stood k events after a is
        ((a - low) (n_items + 1) + i) reach + k - 1.
    """
    found: list[tuple[Ints, Ints]] = []
    # In parts, should a single item have more pairs than are sorted at once.
    where = np.flatnonzero((log >= low) & (log < high))
    size = max(1, at_once // reach)
    for start in range(0, len(where), size):
        at = where[start : start + size]
        left = ends[np.searchsorted(ends, at, side="right")] - 1 - at
        row = (log[at].astype(np.int64) - low) * (n_items + 1)
        keys = []
        for step in range(1, reach + 1):
            here = left >= step
            keys.append((row[here] + log[at[here] + step]) * reach + step - 1)
        found.append(_occurrences(np.concatenate(keys)))
    if len(found) == 1:
        return found[0]
    return summed(*(_joined([part[n] for part in found], np.int64) for n in (0, 1)))


def _occurrences(key: Ints) -> tuple[Ints, Ints]:
    """Keys, ascending and each once, and how often each stood there; sorts `key` itself."""
    key.sort()  # by values: several times as quick as an order of them
    first = firsts(key)
    return key[first], np.diff(first, append=len(key))


def _joined(parts: list[np.ndarray], kind: type) -> np.ndarray:
    return np.concatenate([*parts, np.zeros(0, kind)])
