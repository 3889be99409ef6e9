"""Messages of a source into a store of users, each event once, whatever is killed.

A batch is read, its events are logged, then its dead letters are written, and only then are its
positions kept at the source. Whoever is killed between two of these steps leaves a batch that is
read again; its events have ids by then, and are not logged again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from longrec.core.errors import LongrecError, UsageError
from longrec.ingest.dead_letters import DeadLetter, DeadLetters
from longrec.ingest.decoding import BadMessage, Decode
from longrec.ingest.mapping import FieldMap
from longrec.ingest.source import Message, Notes, Source, SourceAway
from longrec.ingest.telemetry import Telemetry
from longrec.serving.stores.protocol import StoreFull, StoreUnavailable, UserDamaged
from longrec.serving.stream.ahead import TimeAhead
from longrec.serving.stream.stream import Stream
from longrec.serving.stream.writer import Counts, Entry, Observed

POLL = 0.5
"""Seconds for a batch to come, and to a signal's being heard."""
RETRY = 1.0
"""Seconds between two tries."""
LAG_EVERY = 5.0
"""Seconds between two looks at how far behind it is."""
REMEMBERED = 100_000
"""Users of whom it is remembered in which partition they were last met."""
STANDS_BY = 30.0
"""Seconds without a partition after which it is told."""
TOLD_EVERY = 60.0
"""Seconds between two warnings of the same kind."""

CONFLICT = "another event was logged with its event id before; that one stays"


@dataclass(frozen=True)
class Limits:
    """How a consumer goes about it.

    Attributes
    ----------
    batch : messages that are read, logged and kept together, at most.
    patience : seconds for which source or store may be away before it ends with an error.
    dead : dead letters in a row after which it ends with an error; 0: any number.
    until_end : whether it ends once it has read all that there is.
    """

    batch: int = 500
    patience: float = 300.0
    dead: int = 1000
    until_end: bool = False


class _Read(NamedTuple):
    """What is in a batch of messages: events by user, in their order, and dead letters."""

    events: dict[bytes, list[tuple[Entry, Message]]]
    letters: list[DeadLetter]


class Stop:
    """Whether a consumer shall end; a signal's handler sets `told`, since it may take no lock."""

    def __init__(self) -> None:
        self.told = False

    def wait(self, seconds: float) -> bool:
        """Wait, and no longer once it is told; -> whether it is."""
        end = time.monotonic() + seconds
        while not self.told and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))
        return self.told


class Stopped(Exception):
    """It was told to end while it waited."""


class Consumer:
    """Reads a source into a stream's store until it is stopped.

    Parameters
    ----------
    stream : whose store and model it is; nothing else writes through it meanwhile.
    source : not open yet.
    decode : documents of messages.
    fields : events of documents.
    letters : where messages go that are no events.
    notes, telemetry : what it tells.
    limits : see `Limits`.
    stop : told when it shall end; what it has read is finished first.
    progress : called with a line now and then.
    """

    def __init__(
        self,
        stream: Stream,
        source: Source,
        decode: Decode,
        fields: FieldMap,
        letters: DeadLetters,
        notes: Notes,
        telemetry: Telemetry,
        limits: Limits,
        stop: Stop,
        progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._stream, self._source = stream, source
        self._decode, self._fields, self._letters = decode, fields, letters
        self._notes, self._telemetry, self._limits = notes, telemetry, limits
        self._stop, self._progress = stop, progress
        self._away: dict[str, float] = {}  # since when
        self._held: list[Message] = []  # all of them dead letters, not committed yet
        self._dead = 0  # dead letters in a row
        self._lag_after, self._alone_since = 0.0, float("inf")
        self._met: dict[bytes, tuple[str, str]] = {}
        self._told_split = -TOLD_EVERY

    def run(self) -> Counts:
        """Read until it is stopped, or to the end where that is wanted; -> what became of events.

        Raises
        ------
        LongrecError
            When nobody answers at the start, or for longer than is allowed; when there is no such
            topic or stream; when too many messages in a row are no events. What is logged is
            logged, and the same command goes on.
        """
        self._source.open()
        try:
            with suppress(Stopped):
                while not self._stop.told:
                    if self._step():
                        break
            with suppress(SourceAway):  # they would be read again
                self._commit(self._held)
        finally:
            self._source.close()
        return self._telemetry.counts

    def _step(self) -> bool:
        """One batch; whether it is the last one."""
        try:
            messages = self._source.poll(self._limits.batch, POLL)
            if not messages and self._held:
                self._commit_held()
            if messages:
                self._batch(messages)
            done = self._look(not messages)
        except SourceAway as error:
            self._wait("source", error)
            return False
        except (StoreUnavailable, StoreFull) as error:  # asked which groups have begun
            self._wait("store", error)
            return False
        self._back("source")
        return done and self._limits.until_end

    def _batch(self, messages: Sequence[Message]) -> None:
        began = time.monotonic()
        read = self._read(messages)
        counts, refused = self._log(read.events)
        letters = read.letters + refused
        self._letters.keep(letters)
        kinds = Counter(one.kind for one in letters)
        self._dead = 0 if len(letters) < len(messages) else self._dead + len(letters)
        # Of a run of dead letters nothing is kept until an event comes, or nothing more: where it
        # ends with an error the same messages are read again, with another --map, say.
        self._held += messages
        if self._dead and self._limits.dead and self._dead >= self._limits.dead:
            raise self._too_many(letters[-1])
        try:
            if not self._dead or not self._limits.dead:
                self._commit_held()
        finally:
            self._telemetry.batch(len(messages), counts, kinds, time.monotonic() - began)

    def _commit_held(self) -> None:
        held, self._held = self._held, []
        self._commit(held)

    def _commit(self, messages: Sequence[Message]) -> None:
        if messages:
            self._source.commit(messages)

    def _read(self, messages: Sequence[Message]) -> _Read:
        """The events of messages, and the letters of those that have none."""
        read = _Read({}, [])
        for message in messages:
            try:
                document = self._decode(message)
                entry = self._stream.writer.entry(**self._fields.of(document, message))
            except BadMessage as error:
                read.letters.append(DeadLetter(message, "format", str(error)))
            except TimeAhead as error:
                read.letters.append(DeadLetter(message, "ahead", str(error)))
            except UsageError as error:
                read.letters.append(DeadLetter(message, "event", str(error)))
            else:
                read.events.setdefault(entry.user, []).append((entry, message))
                self._meet(entry.user, message)
        return read

    def _log(
        self, events: dict[bytes, list[tuple[Entry, Message]]]
    ) -> tuple[Counts, list[DeadLetter]]:
        """Log events, each user's apart so that a damaged one holds up nobody else."""
        counts, letters = Counts(), list[DeadLetter]()
        pairs = list(events.values())
        if not pairs:
            return counts, letters
        outcomes = self._written([[entry for entry, _ in own] for own in pairs])
        for own, outcome in zip(pairs, outcomes, strict=True):
            if isinstance(outcome, UserDamaged):
                words = f"what the store has of its user is damaged: {outcome}"
                letters += [DeadLetter(message, "store", words) for _, message in own]
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                counts = counts.plus(outcome)
                letters += [
                    DeadLetter(message, "conflict", CONFLICT)
                    for (_, message), one in zip(own, outcome, strict=True)
                    if one.conflicting
                ]
        return counts, letters

    def _written(self, batches: list[list[Entry]]) -> list[list[Observed] | BaseException]:
        """What became of events; while the store takes none, the source is told to wait."""
        while True:
            try:
                outcomes = self._stream.writer.write(batches)
            except (StoreUnavailable, StoreFull) as error:
                self._wait("store", error)
                with suppress(SourceAway):
                    self._source.keep_alive()
            else:
                self._back("store")
                return outcomes

    def _wait(self, on: str, error: LongrecError) -> None:
        """Wait a moment for the source or the store; raise the error when that was long enough."""
        now = time.monotonic()
        if on not in self._away:
            self._away[on] = now
            self._telemetry.waiting(on, True)
            self._notes.note("waits", f"waiting for the {on}: {error}")
        if now - self._away[on] > self._limits.patience:
            raise LongrecError(
                f"{error} (waited for {self._limits.patience:.0f} s, --patience; nothing is lost: "
                "the same command goes on)"
            ) from error
        if self._stop.wait(RETRY):
            raise Stopped

    def _back(self, on: str) -> None:
        since = self._away.pop(on, None)
        if since is not None:
            self._telemetry.waiting(on, False)
            gone = time.monotonic() - since
            self._notes.note("back", f"the {on} answers again, after {gone:.0f} s")

    def _look(self, idle: bool) -> bool:
        """Tell how far behind it is, now and then; whether nothing is left to read."""
        now = time.monotonic()
        asks = idle and self._limits.until_end
        if asks or now >= self._lag_after:
            self._telemetry.lags(self._source.lag())
            self._lag_after = now + LAG_EVERY
            self._tell_standing_by(now)
        self._progress(self._telemetry.line())
        return idle and bool(self._telemetry.lag) and not any(self._telemetry.lag.values())

    def _tell_standing_by(self, now: float) -> None:
        """Tell once that others read everything."""
        self._alone_since = float("inf") if self._telemetry.lag else min(self._alone_since, now)
        if now - self._alone_since > STANDS_BY:
            self._alone_since = float("inf")
            self._notes.note(
                "stands_by",
                f"{self._source.url}: other consumers of the group read all of it; this one stands "
                "by, and takes over where one of them ends",
            )

    def _meet(self, user: bytes, message: Message) -> None:
        """Count users whose events stand in several partitions: these have no order."""
        before = self._met.get(user)
        if before is None and len(self._met) >= REMEMBERED:
            del self._met[next(iter(self._met))]
        self._met[user] = message.partition, message.offset
        if before is None or before[0] == message.partition:
            return
        words, now = "", time.monotonic()
        if now - self._told_split >= TOLD_EVERY:
            self._told_split = now
            words = (
                f"warning: events of one user stand in {before[0]} (at {before[1]}) and in "
                f"{message.partition} (at {message.offset}), so that they have no order: let the "
                "producer choose the partition by the user (Kafka: the user's id as the key)"
            )
        self._notes.note("split_user", words)

    def _too_many(self, last: DeadLetter) -> LongrecError:
        where = f"{last.message.partition} at {last.message.offset}"
        again = "first" if len(self._held) == self._dead else f"last {len(self._held):,}"
        return LongrecError(
            f"{self._source.url}: {self._dead:,} messages in a row are no events, the last, {where}"
            f", since {last.reason}. See --map and --format; they are kept in "
            f"{self._letters.path}, and the same command begins with the {again} of them again "
            "(--dead-limit 0 goes on past any number)"
        )
