"""From histories to training batches: by token budget and length bucket, without loops over events.

An epoch is a plan: which users share a batch (a group), in which order the groups come, and the
windows in which a long history is read. It is a function of (seed, epoch) alone, and a batch is a
function of the plan and its position in it, so neither workers nor restarts change anything. Where
several processes train together, each reads its part of a batch's rows.

Every event but a history's first is a target, unless `sampling` says which are. Histories longer
than `window` events then come as windows in order: window k + 1 of a group follows window k, and
`Batch.continues` tells which rows' states are carried on. Rows with sampled targets are read whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longrec.core.arrays import Ints
from longrec.data.histories import Histories
from longrec.data.sampling import Bools, Masking, Prefixes

T = TypeVar("T", Tensor, Tensor | None)
Part = Callable[[int], slice]
"""Which of so many rows of a batch are wanted."""


def whole(rows: int) -> slice:
    """All of them."""
    return slice(0, rows)


@dataclass(frozen=True)
class Batch:
    """B windows of histories (or whole rows), padded at the end.

    Attributes
    ----------
    items : Tensor
        (B, T) int64, inputs; 0 is padding. Events to hide stand here too: the model hides them.
    targets : Tensor
        (B, T) int64, what is predicted at each position: the event after it, or with masking the
        hidden event itself; 0 where there is nothing to predict.
    times : Tensor or None
        (B, T) int64 seconds; a hidden event has the time of the one before it.
    columns : dict or None
        Further columns by name, (B, T) each, those that the model reads; a hidden event has none
        of its own: -1 (text) or 0. None where it reads none.
    lengths : Tensor
        (B,) int64, real inputs per row.
    continues : Tensor or None
        (B,) int64, which row of the previous batch each row continues; None at first windows.
    carries : bool
        Whether the next batch may continue these rows.
    target_columns : dict or None
        The same columns of the events that are predicted, (B, T) each: for losses alone, since no
        model may read them.
    """

    items: Tensor
    targets: Tensor
    times: Tensor | None
    columns: dict[str, Tensor] | None
    lengths: Tensor
    continues: Tensor | None
    carries: bool
    target_columns: dict[str, Tensor] | None = None

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""

        def moved(x: T) -> T:
            return None if x is None else x.to(device, non_blocking=True)

        def all_moved(columns: dict[str, Tensor] | None) -> dict[str, Tensor] | None:
            return columns and {name: moved(column) for name, column in columns.items()}

        return Batch(
            moved(self.items),
            moved(self.targets),
            moved(self.times),
            all_moved(self.columns),
            moved(self.lengths),
            moved(self.continues),
            self.carries,
            all_moved(self.target_columns),
        )


def length_buckets(longest: int) -> Ints:
    """Bucket bounds up to `longest`: even numbers, then multiples of 16, an eighth apart or 16.

    Most users of many logs have less than ten events: padded to 16, two thirds of their batches
    would be padding.
    """
    bounds = [2, 4, 6, 8, 10, 12, 14, 16]
    while bounds[-1] < longest:
        bounds.append(bounds[-1] + max(16, bounds[-1] // 8 // 16 * 16))
    return np.array(bounds, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Groups:
    """Sequences put into batches of similar length.

    Attributes
    ----------
    order : (n,) the sequences, group after group.
    starts : (n_groups + 1,) bounds of the groups in `order`.
    windows : (n_groups,) windows that each group is read in.
    """

    order: Ints
    starts: Ints
    windows: Ints


def group_by_length(lengths: Ints, order: Ints, batch_tokens: int, window: int) -> Groups:
    """Put sequences of these lengths, taken in this order, into groups of at most batch_tokens.

    A group holds sequences of one length bucket (above `window`: of one number of windows), at
    least one of them however long it is.
    """
    bounds = length_buckets(min(int(lengths.max(initial=1)), window))
    ordered = lengths[order]
    windows = -(-ordered // window)
    bucket = np.searchsorted(bounds, np.minimum(ordered, window))
    bucket = np.where(windows > 1, len(bounds) - 1 + windows, bucket)
    by_bucket = np.argsort(bucket, kind="stable")
    order, bucket, windows = order[by_bucket], bucket[by_bucket], windows[by_bucket]
    widest = bounds[np.minimum(bucket, len(bounds) - 1)]
    rows = np.maximum(batch_tokens // widest, 1)
    first = np.searchsorted(bucket, bucket)  # where the own bucket begins
    opens = (np.arange(len(order)) - first) % rows == 0
    starts = np.flatnonzero(opens)
    return Groups(order, np.append(starts, len(order)), windows[starts])


@dataclass(frozen=True, eq=False)
class TrainingData:
    """What trains: for each user a stretch of events, and which of them are targets.

    Parameters
    ----------
    histories : Histories
    train_end : (n_users,) int64
        Where each user's training events end.
    context : int or None
        Most events that a prediction reads; earlier ones are left out. None: whole histories.
    window : int
        Most inputs read at once; longer stretches carry their state on. Of no effect with sampling,
        whose rows are read whole.
    batch_tokens : int
        Padded inputs per batch, at most (one row may exceed it alone).
    seed : int
    sampling : Masking, Prefixes or None
        How targets are drawn anew for each epoch; None: every event but the first is one.
    columns : names of the further columns that the model reads.
    """

    histories: Histories
    train_end: Ints
    context: int | None
    window: int
    batch_tokens: int
    seed: int
    sampling: Masking | Prefixes | None = None
    columns: Sequence[str] = ()

    @cached_property
    def begin(self) -> Ints:
        """(n_users,) first event used of each user: `context` to read and one to predict."""
        offsets = self.histories.offsets[:-1]
        if self.context is None:
            return offsets
        return cast(Ints, np.maximum(offsets, self.train_end - self.context - 1))

    @cached_property
    def lengths(self) -> Ints:
        """(n_users,) events that can be predicted: of those used, all but the first."""
        return cast(Ints, np.maximum(self.train_end - self.begin - 1, 0))

    @property
    def dropped(self) -> int:
        """Training events that the context leaves out of every epoch."""
        if isinstance(self.sampling, Prefixes):
            return 0  # a prefix may end anywhere, so that each event is in reach of some
        return int((self.begin - self.histories.offsets[:-1]).sum())

    @property
    def targets_per_epoch(self) -> int:
        """Targets of an epoch; with masking, as many as are expected."""
        match self.sampling:
            case Masking() as masking:
                return round(masking.expected(self._events_used))
            case Prefixes() as prefixes:
                return int(prefixes.counts(self._possible_prefixes).sum())
        return int(self.lengths.sum())

    def rows(self, random: np.random.Generator) -> tuple[Ints, Ints]:
        """First event and inputs of an epoch's rows; those without inputs are not read."""
        match self.sampling:
            case Masking():
                return self.begin, self._events_used
            case Prefixes() as prefixes:
                users, lengths = prefixes.draw(random, self._possible_prefixes)
                inputs = lengths if self.context is None else np.minimum(lengths, self.context)
                return self.histories.offsets[users] + lengths - inputs, inputs
        return self.begin, self.lengths

    @property
    def _events_used(self) -> Ints:  # all events used; one alone would be predicted from nothing
        return np.where(self.lengths > 0, self.lengths + 1, 0)

    @property
    def _possible_prefixes(self) -> Ints:
        return cast(Ints, np.maximum(self.train_end - self.histories.offsets[:-1] - 1, 0))

    def epoch(self, epoch: int) -> Epoch:
        """The plan of one epoch."""
        random = np.random.default_rng([self.seed, epoch])
        begin, lengths = self.rows(random)
        rows = random.permutation(np.flatnonzero(lengths > 0))
        window = self.window if self.sampling is None else int(lengths.max(initial=1))
        groups = group_by_length(lengths, rows, self.batch_tokens, window)
        order = random.permutation(len(groups.windows))
        windows = groups.windows[order]
        step_group = np.repeat(order, windows)
        step_window = np.arange(len(step_group)) - np.repeat(windows.cumsum() - windows, windows)
        return Epoch(self, epoch, begin, lengths, window, groups, step_group, step_window)


@dataclass(frozen=True, eq=False)
class Epoch:
    """The batches of one epoch in their order."""

    data: TrainingData
    number: int
    begin: Ints  # of each row
    lengths: Ints  # of each row
    window: int
    groups: Groups
    step_group: Ints
    step_window: Ints

    def __len__(self) -> int:
        return len(self.step_group)

    def batch(self, step: int, part: Part = whole) -> Batch:
        """The batch at step `step` of the plan, or a part of its rows, which may be none.

        The part is one of the group's rows, so that a row is in the same part in all windows.
        """
        groups = self.groups
        which, window = self.step_group[step], int(self.step_window[step])
        group = groups.order[groups.starts[which] : groups.starts[which + 1]]
        mine = part(len(group))
        rows = group[mine]
        left = self.lengths[rows] - window * self.window
        continues = None
        if window:
            before = left + self.window > 0
            continues = torch.from_numpy((before.cumsum() - 1)[left > 0])
        rows, left = rows[left > 0], left[left > 0]
        lengths = np.minimum(left, self.window)
        begin = self.begin[rows] + window * self.window
        if isinstance(self.data.sampling, Masking):
            hidden = self._hidden(step, group)[mine, : int(lengths.max(initial=1))]
            inputs, targets, wanted = self._hidden_events(hidden, begin, lengths)
        else:
            inputs, targets, wanted = self._next_events(begin, lengths)
        columns, target_columns = (
            {name: torch.from_numpy(x) for name, x in of_events.items()} or None
            for of_events in (inputs.columns, wanted)
        )
        return Batch(
            torch.from_numpy(inputs.items),
            torch.from_numpy(targets),
            None if inputs.times is None else torch.from_numpy(inputs.times),
            columns,
            torch.from_numpy(lengths),
            continues,
            window + 1 < int(groups.windows[which]),
            target_columns,
        )

    def _next_events(
        self, begin: Ints, lengths: Ints
    ) -> tuple[Padded, Ints, Mapping[str, np.ndarray]]:
        """Rows to read, and the event after each of their positions (Prefixes: after the last).

        Its items, and its further columns.
        """
        events = read_padded(self.data.histories, begin, lengths + 1, self.data.columns)
        column = np.arange(events.items.shape[1] - 1)
        real = column < lengths[:, None]
        items = events.items[:, :-1] * real
        targets = np.ascontiguousarray(events.items[:, 1:])
        if self.data.sampling is not None:
            targets *= column == lengths[:, None] - 1
        times = None if events.times is None else events.times[:, :-1].copy()
        columns = {
            name: np.where(real, x[:, :-1], missing_of(x)) for name, x in events.columns.items()
        }
        wanted = {name: np.ascontiguousarray(x[:, 1:]) for name, x in events.columns.items()}
        return Padded(items, times, columns), targets, wanted

    def _hidden(self, step: int, rows: Ints) -> Bools:
        """Which events of a whole batch are hidden, (B, T), whichever part of it is wanted."""
        assert isinstance(self.data.sampling, Masking)
        # Steps count from 1: (seed, epoch, 0) would give the numbers of the plan's (seed, epoch).
        random = np.random.default_rng([self.data.seed, self.number, step + 1])
        return self.data.sampling.hide(random, self.lengths[rows])

    def _hidden_events(
        self, hidden: Bools, begin: Ints, lengths: Ints
    ) -> tuple[Padded, Ints, Mapping[str, np.ndarray]]:
        """Rows to read with their hidden events, the hidden events, and their further columns."""
        events = read_padded(self.data.histories, begin, lengths, self.data.columns)
        times = events.times
        if times is not None:
            # The target's own time must not be known, and when serving it is not.
            times = np.maximum.accumulate(np.where(hidden, times[:, :1], times), axis=1)
        columns = {
            name: np.where(hidden, missing_of(column), column)
            for name, column in events.columns.items()
        }
        return Padded(events.items, times, columns), events.items * hidden, events.columns

    def batches(self, first: int = 0, workers: int = 0, part: Part = whole) -> Iterator[Batch]:
        """Batches from step `first` on; `workers` threads prepare them ahead, in order."""
        if not workers:
            yield from (self.batch(step, part) for step in range(first, len(self)))
            return
        with ThreadPoolExecutor(workers, thread_name_prefix="batches") as pool:
            ahead: list[Future[Batch]] = []
            for step in range(first, len(self)):
                ahead.append(pool.submit(self.batch, step, part))
                if len(ahead) > 2 * workers:
                    yield ahead.pop(0).result()
            for future in ahead:
                yield future.result()


@dataclass(frozen=True)
class Padded:
    """Stretches of histories, padded at the end: items (B, T) int64, times (B, T) or None.

    columns : further columns by name, (B, T) each.
    """

    items: Ints
    times: Ints | None
    columns: Mapping[str, np.ndarray]


class EventArrays(Protocol):
    """What reading takes: items and times of events, history after history."""

    @property
    def items(self) -> NDArray[Any]: ...
    @property
    def times(self) -> NDArray[Any] | None: ...
    def read_column(self, name: str, at: Ints) -> np.ndarray:
        """Values of a further column of the events at some places, as models read them."""


def read_padded(
    histories: EventArrays, begin: Ints, lengths: Ints, columns: Sequence[str] = ()
) -> Padded:
    """Read stretches of `lengths` events from absolute positions `begin`, with some columns."""
    widest = int(lengths.max(initial=1))
    position = begin[:, None] + np.arange(widest)
    real = np.arange(widest) < lengths[:, None]
    position = np.minimum(position, len(histories.items) - 1)
    items = histories.items[position].astype(np.int64) * real
    times = None if histories.times is None else histories.times[position].astype(np.int64)
    if times is not None:
        # Padding repeats the last real time, so that clocks never run backwards.
        last = times[np.arange(len(lengths)), np.maximum(lengths - 1, 0)]
        times = np.where(real, times, last[:, None])
    further = {}
    for name in columns:
        values = histories.read_column(name, position)
        further[name] = np.where(real, values, missing_of(values))
    return Padded(items, times, further)


def missing_of(values: np.ndarray) -> np.ndarray:
    """What stands in a column, as models read it, where there is nothing: (), of its type."""
    return np.array(0 if values.dtype.kind == "f" else -1, values.dtype)
