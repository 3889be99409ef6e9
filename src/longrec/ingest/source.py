"""What a log of messages is to the consumer, and where reading begins.

A source hands out messages of partitions: within one they have an order, and one consumer of the
group reads it at a time. A consumer that is not the reader of a partition any more may still hold
messages of it. That does no harm: whoever reads it now begins no later than these, and events have
ids, so that each is logged once and in the partition's order, whoever comes first.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, Protocol, cast, get_args

from longrec.core.errors import LongrecError, UsageError
from longrec.serving.stores.protocol import Store

Word = Literal["earliest", "latest"]
Begin = Word | float
"""Where a group begins that has read nothing yet; a number: at this time, in seconds since 1970."""


class SourceAway(LongrecError):
    """The source does not answer now; the same call may soon succeed."""


class Message(NamedTuple):
    """A message as it was read.

    value : its bytes; the fields of an entry of a Redis stream; None: it has none.
    key : bytes, or None.
    time : seconds since 1970 that the source gives it, or None.
    partition, offset : where it stands, in words.
    event_id : made of where it stands; another message never has it.
    token : what the source commits it by.
    """

    value: bytes | Mapping[bytes, bytes] | None
    key: bytes | None
    time: float | None
    partition: str
    offset: str
    event_id: str
    token: Any


class Notes:
    """What happened that is to be counted, and told to people; no id of a user is in it.

    Attributes
    ----------
    counts : how often, by kind (see `KINDS`).
    """

    def __init__(self, say: Callable[[str], None] = lambda words: None) -> None:
        self.counts, self._say = Counter[str](), say

    def note(self, kind: str, words: str = "", number: int = 1) -> None:
        """Count something, and say it unless there are no words."""
        self.counts[kind] += number
        if words:
            self._say(words)


KINDS = {
    "rebalance": "times that partitions were given to this consumer or taken from it",
    "lost": "messages that were deleted at the source before the group had read them",
    "reset": "partitions read from their beginning, since the position kept was not there",
    "commit_refused": "commits refused, since the partitions had another reader by then",
    "reopened": "connections made anew, since nothing came although there was something to read",
    "split_user": "users whose events stand in more than one partition",
}
"""What is counted, in words."""


MAX_ID = 200
"""Bytes of an event id."""


def event_id(name: str, place: str) -> str:
    """An id that no other message has: of the topic or stream, and where in it the message stands.

    A long name is told by its SHA-256.
    """
    if len(name.encode()) + 1 + len(place) > MAX_ID:
        name = hashlib.sha256(name.encode()).hexdigest()
    return f"{name}-{place}"


class Source(Protocol):
    """A log of messages, as one consumer of a group sees it; for one thread."""

    @property
    def url(self) -> str:
        """Where it is, without credentials: fit to be shown."""

    def open(self) -> None:
        """Connect, and join the group.

        Raises
        ------
        SourceAway
            When nobody answers.
        LongrecError
            When there is no such topic or stream, or this user may not read it.
        """

    def poll(self, limit: int, seconds: float) -> list[Message]:
        """At most `limit` messages, those of a partition in its order; [] where none come in time.

        Raises
        ------
        SourceAway
        """

    def commit(self, messages: Sequence[Message]) -> None:
        """Keep, for the whole group, that these are done with, and all before them.

        What cannot be kept is read again by whoever reads the partition next.

        Raises
        ------
        SourceAway
            Then it is kept with the next commit.
        """

    def keep_alive(self) -> None:
        """Stay in the group while no messages can be taken; to be called each second or so."""

    def lag(self) -> dict[str, int]:
        """Per partition that this consumer reads, the messages that it has not handed out yet."""

    def close(self) -> None:
        """Leave the group; closing twice is nothing."""


class Begun:
    """Which groups have begun to read into a store, kept in the store itself.

    A source may lose the positions of a group: they expire, or are deleted. A group that has begun
    reads from the beginning then, whatever `--from` says: what is logged already has its event ids.
    """

    KEY = "consumed"
    """In the store's meta."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def known(self, group: str) -> bool:
        """Whether a group, named with its source, has begun."""
        return group in self._store.meta().get(self.KEY, ())

    def note(self, group: str) -> None:
        """Keep that a group has begun; its first positions are at the source by now."""

        def change(meta: dict[str, Any]) -> None:
            meta[self.KEY] = sorted({*meta.get(self.KEY, ()), group})

        if not self.known(group):
            self._store.change_meta(change)


def parse_begin(text: str) -> Begin:
    """What `--from` says.

    Raises
    ------
    UsageError
        When it is neither a word nor a time.
    """
    if text in get_args(Word):
        return cast(Word, text)
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise UsageError(
            f"--from is {text!r}; give earliest, latest, or a time such as 2026-01-31T12:00 (UTC)"
        ) from None
