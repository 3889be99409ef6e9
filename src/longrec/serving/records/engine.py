"""What a model does to users' records: one event in constant time, many in parallel."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from longrec.artifact.artifact import Artifact
from longrec.core.arrays import Ints, places
from longrec.core.errors import UsageError
from longrec.mixers import Context
from longrec.models import CountingModel, SequenceModel
from longrec.serving.records.logged_columns import LoggedColumns
from longrec.serving.records.record import RECENT, RecordLayout
from longrec.serving.records.recorded_step import StepProgram
from longrec.serving.records.steps import record_steps
from longrec.serving.stores.checks import seal
from longrec.serving.stores.protocol import Event

WIDE, NARROW = 128, 32
"""Records per step of the recorded programs: fewer cost more each, more leave the cache."""
ONE_BY_ONE = 4
"""Events in all up to which each is a step of its own: a step of NARROW records takes as long."""
STEPPED = 16
"""Events of a user up to which they are stepped rather than read in parallel."""
PREFILL_TOKENS, PREFILL_EVENTS = 16_384, 4096
"""Events read in parallel at once, in all and of one user; the state carries on."""

NEVER = torch.iinfo(torch.int64).min
Moment = tuple[Any, ...]
"""An event as a model reads it: item index (0: an item that it does not know), time in seconds, and
the values of the further columns that it reads."""
Events = Sequence[Sequence[Moment]]
"""Per user some events."""
Arrays = Sequence[np.ndarray]
"""Further columns of events, in the order in which the model names them."""


class Engine:
    """A recommender's model at work on records; usable from any thread.

    Parameters
    ----------
    artifact : Artifact
        Whose model streams exactly, or reads a window of last events; on the CPU.

    Attributes
    ----------
    digest : hex digest of what shapes the states.
    window : None, or how many of the last known events are read again for each recommendation.
    reach : how many last items are kept beside the model's state, for a counting model and for an
        added score.
    columns : the further columns that the model reads, or None.
    layout : of the records.

    Raises
    ------
    UsageError
        When the model cannot stream, in which case the message names the one to train instead, or
        was trained without a column that it reads.
    """

    def __init__(self, artifact: Artifact) -> None:
        model = artifact.model
        self.model, self.digest = model, artifact.state_digest
        self._exact: SequenceModel | None = None
        self.window: int | None = None
        if isinstance(model, CountingModel) or model.streaming == "windowed":
            if not isinstance(model, CountingModel):
                self.window = artifact.limit
            state: Any = Clock(torch.full((1,), NEVER))
        else:
            assert isinstance(model, SequenceModel)
            try:
                state = model.initial_state(1)
            except ValueError as error:
                raise UsageError(str(error)) from error
            self._exact = model
        self.name = artifact.name
        self.reach = artifact.kept_items
        self._added_reach = artifact.scorer.reach
        self.columns: LoggedColumns | None = None
        if model.reads_columns:
            self.columns = LoggedColumns(self.name, model.reads_columns, artifact.columns)
        self.layout = RecordLayout(state, self.digest, self.reach)
        self._lock = threading.Lock()
        self._programs: tuple[StepProgram, ...] | None = None
        if self._exact is not None:
            sizes = 1, NARROW, WIDE
            self._programs = record_steps(self._exact, self.layout, sizes, self.columns)

    @property
    def statement(self) -> str:
        """What is exact and what is not, in plain words."""
        if self.window is None:
            return (
                f"{self.name} streams exactly: scores are those of the whole history, to rounding; "
                f"{self.layout.size:,} bytes per user, whatever the history"
            )
        events = "event" if self.window == 1 else f"{self.window} events"
        return (
            f"{self.name} reads the last {events} again for each recommendation: what is older "
            "does not count, in training neither; its cost grows with that number"
        )

    def moments(self, items: Iterable[int], events: Iterable[Event]) -> list[Moment]:
        """Logged events as the model reads them; `items` are their item indices."""
        if self.columns is None:
            return [(item, event.time) for item, event in zip(items, events, strict=True)]
        values = self.columns.values
        return [(i, e.time, *values(e.columns)) for i, e in zip(items, events, strict=True)]

    def dump(self, records: np.ndarray, row: int, user: bytes) -> bytes:
        """The bytes of one of the records, sealed as the user's."""
        return seal(user, records[row : row + 1].tobytes())

    def advance(self, records: np.ndarray, events: Events) -> None:
        """Let records (n,) go on by events of theirs, in place.

        Events of unknown items are counted and skipped. A late event, earlier than one before it,
        counts as simultaneous with that one.
        """
        if sum(map(len, events)) <= ONE_BY_ONE:
            for row, history in enumerate(events):
                for item, time, *values in history:
                    self._advance_one(records, row, item, time, values)
            return
        counts = np.array([len(history) for history in events], np.int64)
        items, times, *columns = self.arrays([event for history in events for event in history])
        owner = np.repeat(np.arange(len(records)), counts)
        records["sequence"] += counts
        np.add.at(records["skipped"], owner[items == 0], 1)
        known = items > 0
        items, times, owner = items[known], times[known], owner[known]
        columns = [column[known] for column in columns]
        counts = np.bincount(owner, minlength=len(records))
        starts = counts.cumsum() - counts
        clocks = _clocks(times, records["time"], owner, starts)
        np.add.at(records["late"], owner[times < clocks], 1)
        if self.reach:
            self._keep_items(records[RECENT], items, starts, counts)
        if self._exact is None:
            last = np.flatnonzero(counts)
            records["time"][last] = clocks[(starts + counts - 1)[last]]
            return
        with torch.inference_mode():
            stepped = counts <= STEPPED
            known_events = items, clocks, columns, starts
            with self._lock:  # steps are recorded into memory of their own, and read in order
                self._step(records, *known_events, np.where(stepped, counts, 0))
            # Nobody waits for a long history: nothing of it is shared.
            self._prefill(records, *known_events, np.where(stepped, 0, counts))

    def read(self, records: np.ndarray, tails: Events | None = None) -> Tensor:
        """What retrieval takes of users with known events: (n, D).

        `tails` is for models with a window: per user the last events with known items, oldest
        first, at least one.
        """
        if isinstance(self.model, CountingModel):
            if not self.model.reach:
                return torch.zeros(len(records), 1, dtype=torch.int64)
            return torch.from_numpy(records[RECENT][:, : self.model.reach].copy())
        if self.window is None:
            return torch.from_numpy(records["output"].copy())
        assert tails is not None
        tails = [tail[-self.window :] for tail in tails]
        lengths = torch.tensor([len(tail) for tail in tails])
        shape = (len(tails), int(lengths.max()))
        items, times, *columns = (np.zeros(shape, part.dtype) for part in self.arrays(tails[0]))
        for row, tail in enumerate(tails):
            for padded, part in zip((items, times, *columns), self.arrays(tail), strict=True):
                padded[row, : len(tail)] = part
        ctx = self._context(np.maximum.accumulate(times, axis=1), columns, lengths)
        with torch.inference_mode():
            h = self.model.encode(torch.from_numpy(items), ctx)
        return h[torch.arange(len(tails)), lengths - 1]

    def recent(self, records: np.ndarray) -> Tensor | None:
        """The last items of users that an added score reads (n, reach); None where none does."""
        if not self._added_reach:
            return None
        return torch.from_numpy(records[RECENT][:, : self._added_reach].copy())

    def _keep_items(self, kept: np.ndarray, items: Ints, starts: Ints, counts: Ints) -> None:
        """Put users' new items, counts[i] from starts[i] on, in front of those kept (n, reach)."""
        if not len(items):
            return
        place = np.arange(self.reach)
        new = items[np.maximum((starts + counts - 1)[:, None] - place, 0)]
        old = np.take_along_axis(kept, np.maximum(place - counts[:, None], 0), 1)
        kept[:] = np.where(place < counts[:, None], new, old)

    def arrays(self, events: Sequence[Moment]) -> Arrays:
        """Items, times and further columns of events, an array each."""
        if self.columns is None:
            return list(np.array(events, np.int64).reshape(-1, 2).T)
        values = self.columns.arrays([event[2:] for event in events])
        pairs = np.array([event[:2] for event in events], np.int64).reshape(-1, 2)
        return [*pairs.T, *values]

    def _context(
        self, times: np.ndarray, columns: Arrays, lengths: Tensor | None = None
    ) -> Context:
        names = () if self.columns is None else self.columns.names
        further = dict(zip(names, map(torch.from_numpy, columns), strict=True))
        return Context(lengths, torch.from_numpy(times), further or None)

    def _step(
        self,
        records: np.ndarray,
        items: np.ndarray,
        clocks: np.ndarray,
        columns: Arrays,
        starts: np.ndarray,
        counts: np.ndarray,
    ) -> None:
        """One event after the other, the users' n-th ones together."""
        order = np.argsort(-counts, kind="stable")
        for number in range(int(counts.max(initial=0))):
            rows = order[: int((counts > number).sum())]
            at = starts[rows] + number
            begin = 0
            while begin < len(rows):
                left = len(rows) - begin
                now = slice(begin, begin + (WIDE if left > 2 * NARROW else NARROW))
                here = at[now]
                further = [column[here] for column in columns]
                self._step_once(records, rows[now], items[here], clocks[here], further)
                begin = now.stop

    def _step_once(
        self,
        records: np.ndarray,
        rows: np.ndarray,
        items: np.ndarray,
        times: np.ndarray,
        columns: Arrays,
    ) -> None:
        assert self._exact is not None
        if self._programs is None:
            chosen = records[rows]
            ctx, state = self._context(times, columns), self.layout.state(chosen)
            self.layout.write(chosen, self._exact.step(torch.from_numpy(items), state, ctx)[1])
            records[rows] = chosen
            return
        one, narrow, wide = self._programs
        if len(rows) <= ONE_BY_ONE:
            for row, item, time, *values in zip(rows, items, times, *columns, strict=True):
                one.run_one(records, row, item, time, values)
        else:
            (narrow if len(rows) <= NARROW else wide).run(records, rows, items, times, columns)

    def _advance_one(
        self, records: np.ndarray, row: int, item: int, time: int, values: Sequence[int | float]
    ) -> None:
        """One event of one user, as `advance` does many, but without arrays."""
        records["sequence"][row] += 1
        if item == 0:
            records["skipped"][row] += 1
            return
        clock = max(time, int(records["time"][row]))
        if time < clock:
            records["late"][row] += 1
        if self.reach:
            kept = records[RECENT][row]
            kept[1:] = kept[:-1].copy()
            kept[0] = item
        if self._exact is None:
            records["time"][row] = clock
            return
        with self._lock, torch.inference_mode():
            if self._programs is None:
                columns = [] if self.columns is None else self.columns.arrays([tuple(values)])
                rows, items, times = np.array([[row], [item], [clock]])
                self._step_once(records, rows, items, times, columns)
            else:
                self._programs[0].run_one(records, row, item, clock, values)

    def _prefill(
        self,
        records: np.ndarray,
        items: np.ndarray,
        clocks: np.ndarray,
        columns: Arrays,
        starts: np.ndarray,
        counts: np.ndarray,
    ) -> None:
        """Many events per user in parallel, in padded batches of users with as many."""
        model = self._exact
        assert model is not None
        order = np.argsort(-counts, kind="stable")
        order = order[: int((counts > 0).sum())]
        begin = 0
        while begin < len(order):
            longest = min(int(counts[order[begin]]), PREFILL_EVENTS)
            rows = order[begin : begin + max(1, PREFILL_TOKENS // longest)]
            begin += len(rows)
            chosen = records[rows]
            state = self.layout.state(chosen)
            for first in range(0, int(counts[rows[0]]), PREFILL_EVENTS):
                lengths = (counts[rows] - first).clip(0, PREFILL_EVENTS)
                batch = np.zeros((2, len(rows), lengths.max()), np.int64)
                to = (
                    np.repeat(np.arange(len(rows)), lengths),
                    places(np.zeros_like(lengths), lengths),
                )
                at = places(starts[rows] + first, lengths)
                batch[:, *to] = items[at], clocks[at]
                further = [np.zeros(batch.shape[1:], column.dtype) for column in columns]
                for padded, column in zip(further, columns, strict=True):
                    padded[to] = column[at]
                # Padding has the last time, or the clock would run backwards.
                np.maximum.accumulate(batch[1], axis=1, out=batch[1])
                ctx = self._context(batch[1], further, torch.from_numpy(lengths))
                state = model.prefill(torch.from_numpy(batch[0]), state, ctx)[1]
            self.layout.write(chosen, state)
            records[rows] = chosen


class Clock(NamedTuple):
    """All that is kept of a user whose events are read again: the time of the last one."""

    time: Tensor


def _clocks(times: Ints, before: Ints, owner: Ints, starts: Ints) -> Ints:
    """Per event the latest time of its user so far, `before` included; events go user by user."""
    if not len(times):
        return times
    clocks = times.copy()
    first = starts[owner[np.flatnonzero(np.diff(owner, prepend=-1))]]
    clocks[first] = np.maximum(clocks[first], before[owner[first]])
    low = clocks.min()
    # Each user's times are put above those of the users before: one running maximum serves all.
    offsets = owner * (clocks.max() - low + 1) - low
    return np.asarray(np.maximum.accumulate(clocks + offsets) - offsets)
