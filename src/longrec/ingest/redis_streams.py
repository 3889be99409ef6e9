"""Streams of Redis as a source: a consumer group on each, read by one consumer at a time.

A group of Redis hands an entry to whichever consumer asks first, so two of them would log a user's
events in any order. Here a stream is what a partition is in Kafka: it has one reader, by a lease
that the reader renews (lua in redis_scripts.py). Several streams are shared out among the consumers
that live; one stream is read by one, and the others stand by.

Whoever gets a stream takes over all entries that were handed to others and not acknowledged, and
reads these first. A reading asks for entries that this consumer was handed behind the last one that
it saw, and for new ones only if there are none: so an answer that was lost is read again.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import urlencode

from longrec.core.errors import LongrecError
from longrec.ingest.address import SourceAddress, shown
from longrec.ingest.redis_scripts import JOIN, LEAVE, READ
from longrec.ingest.source import Begin, Begun, Message, Notes, SourceAway, event_id
from longrec.serving.stores.protocol import StoreFull, StoreUnavailable
from longrec.serving.stores.redis_address import RedisAddress
from longrec.serving.stores.redis_client import RedisClient

PREFIX = "longrec:consume:"
"""What the keys of leases begin with."""
IDLE = 0.05
"""Seconds between two looks at streams that have nothing new."""
ACKNOWLEDGED = 1000
"""Entries acknowledged in one call."""
LISTED = 5


@dataclass
class _Place:
    """A stream that this consumer reads.

    seen : the last entry handed out; assignment : the number of that lease; owed : entries to be
    acknowledged; trimmed : entries in front of those still to come that were told to be deleted.
    """

    seen: bytes
    assignment: int
    owed: list[bytes] = field(default_factory=list)
    trimmed: int = 0


class _Token(NamedTuple):
    stream: str
    entry: bytes
    assignment: int


class RedisStreams:
    """Streams as one consumer of a group reads them; see `source.Source`.

    Parameters
    ----------
    address : SourceAddress
    group : name of the consumer group, of each stream.
    begin : where a group begins that has read nothing yet.
    session : seconds after which a consumer that says nothing loses its streams.
    begun : which groups have begun.
    notes : what happens is counted and told there.
    """

    def __init__(
        self,
        address: SourceAddress,
        group: str,
        begin: Begin,
        session: float,
        begun: Begun,
        notes: Notes,
    ) -> None:
        server = RedisAddress.parse(address.server)
        # Of a server's URL "prefix" is a store's affair, and none of this.
        self._url = shown(
            address.scheme, server.public_url.partition("://")[2].partition("?")[0], address.names
        )
        self._streams, self._group, self._begin = address.names, group, begin
        self._session, self._begun, self._notes = session, begun, notes
        self._client = RedisClient(server, lambda connection: None)
        self._me = f"longrec-{secrets.token_hex(8)}"
        self._places: dict[str, _Place] = {}
        self._assignments, self._turn = 0, 0
        self._renew_after = 0.0
        self._prefix = f"{PREFIX}{group}:"

    @property
    def url(self) -> str:
        return self._url

    def group_key(self, stream: str) -> str:
        """By which it is kept that the group has begun on a stream."""
        return "redis " + urlencode({"stream": stream, "group": self._group})

    def open(self) -> None:
        for stream in self._streams:
            self._check_stream(stream)
            self._make_group(stream)
        self._join()

    def poll(self, limit: int, seconds: float) -> list[Message]:
        end = time.monotonic() + seconds
        while True:
            if time.monotonic() >= self._renew_after:
                self._join()
            messages = self._read(limit)
            if messages or time.monotonic() >= end:
                return messages
            time.sleep(IDLE)

    def commit(self, messages: Sequence[Message]) -> None:
        for message in messages:
            stream, entry, assignment = message.token
            place = self._places.get(stream)
            if place is not None and place.assignment == assignment:
                place.owed.append(entry)
        self._acknowledge()

    def keep_alive(self) -> None:
        if time.monotonic() >= self._renew_after:
            self._join()

    def lag(self) -> dict[str, int]:
        return {stream: self._behind(stream) for stream in self._places}

    def close(self) -> None:
        try:
            self._acknowledge()
            self._ask("EVAL", LEAVE, 0, self._prefix, self._me, *self._streams)
        except LongrecError:
            pass  # its leases end by themselves
        self._client.close()
        self._places.clear()

    def _behind(self, stream: str) -> int:
        """Entries that were not handed to the group yet."""
        group = self._about_group(stream)
        if not group:
            return 0
        if group.get(b"lag") is not None:
            return int(group[b"lag"])
        # Redis cannot tell after entries were deleted; then they are counted, up to a thousand.
        after = b"(" + group[b"last-delivered-id"]
        return len(self._ask("XRANGE", stream, after, "+", "COUNT", 1000))

    def _check_stream(self, stream: str) -> None:
        kind = self._ask("TYPE", stream)
        if kind == b"stream":
            return
        if kind != b"none":
            raise LongrecError(
                f"{self._url}: {stream!r} is a {kind.decode()} and no stream: name another key"
            )
        names = []
        for keys in self._client.keys(b""):
            names += [one for one in keys if self._ask("TYPE", one) == b"stream"]
            if len(names) > LISTED or len(keys) > 1000:
                break
        there = ", ".join(sorted(one.decode("utf-8", "replace") for one in names)[:LISTED])
        raise SourceAway(
            f"{self._url}: there is no stream {stream!r} (there "
            f"{'are: ' + there if there else 'is none'}): "
            "name another one, or start this once its first event is in (XADD makes it)"
        )

    def _make_group(self, stream: str) -> None:
        """Let the group begin where it shall; nothing where it has begun."""
        key = self.group_key(stream)
        begun = self._begun.known(key)
        first = "0-0" if begun else self._first()
        answer = self._ask(
            "EVAL",
            "return redis.pcall('XGROUP', 'CREATE', ARGV[1], ARGV[2], ARGV[3])['err'] or 'new'",
            *(0, stream, self._group, first),
        )
        if answer == b"new" and begun:
            self._notes.note(
                "reset",
                f"{stream}: the group {self._group!r} is not there any more: the stream is read "
                "from its beginning; what is logged already is not logged again",
            )
        elif answer != b"new" and not answer.startswith(b"BUSYGROUP"):
            raise LongrecError(f"{self._url}: Redis answered: {answer.decode('utf-8', 'replace')}")
        self._begun.note(key)

    def _first(self) -> str:
        if self._begin == "earliest":
            return "0-0"
        if self._begin == "latest":
            return "$"
        before = int(self._begin * 1000) - 1
        return "0-0" if before < 0 else f"{before}-18446744073709551615"

    def _join(self) -> None:
        """Renew the leases, take streams that are free, and give up those above a fair share."""
        milliseconds = int(self._session * 1000)
        # Seen from here a lease ends before it does at the server.
        self._renew_after = time.monotonic() + self._session / 3
        answer = self._ask(
            *("EVAL", JOIN, 0, self._prefix, self._group, self._me, milliseconds),
            *self._streams,
        )
        mine: dict[str, _Place] = {}
        for name, new, gone, problem in answer:
            stream = name.decode()
            if problem:
                self._broken(stream, problem)
                continue
            self._tell_lost(stream, gone)
            place = self._places.get(stream)
            if new or place is None:
                self._assignments += 1
                place = _Place(b"0-0", self._assignments)
            mine[stream] = place
        if mine.keys() != self._places.keys():
            self._notes.note("rebalance")
        self._places = mine
        for stream, place in mine.items():
            self._look_for_trimmed(stream, place)

    def _look_for_trimmed(self, stream: str, place: _Place) -> None:
        """Tell how many entries were deleted before they were handed to the group."""
        about, first = self._about(stream), self._ask("XRANGE", stream, "-", "+", "COUNT", 1)
        group = self._about_group(stream)
        read: Any = group.get(b"entries-read")
        added: Any = about.get(b"entries-added")
        trimmed = 0
        told = first and None not in (read, added)
        if told and _number(first[0][0]) > _number(group[b"last-delivered-id"]):
            trimmed = max(int(added) - int(read) - about[b"length"], 0)
        self._tell_lost(stream, trimmed - place.trimmed)
        place.trimmed = trimmed

    def _about(self, stream: str) -> dict[bytes, Any]:
        return _pairs(self._ask("XINFO", "STREAM", stream))

    def _about_group(self, stream: str) -> dict[bytes, Any]:
        for one in map(_pairs, self._ask("XINFO", "GROUPS", stream)):
            if one[b"name"] == self._group.encode():
                return one
        return {}

    def _tell_lost(self, stream: str, number: int) -> None:
        if number > 0:
            self._notes.note(
                "lost",
                f"{stream}: {number:,} entries were deleted before the group {self._group!r} had "
                "read them; let the stream be trimmed later (XTRIM, MAXLEN)",
                number,
            )

    def _broken(self, stream: str, problem: bytes) -> None:
        """What a stream or its group lacks is made anew, if it can be."""
        if problem.startswith(b"NOGROUP"):
            self._check_stream(stream)
            self._make_group(stream)
            # It begins before what was seen here, behind which a lost answer would be looked for.
            self._places.pop(stream, None)
            self._renew_after = 0.0
            return
        raise LongrecError(f"{self._url}: Redis answered: {problem.decode('utf-8', 'replace')}")

    def _read(self, limit: int) -> list[Message]:
        """Entries of the streams, a part of each, beginning with another one each time."""
        streams = list(self._places)
        self._turn += 1
        messages: list[Message] = []
        # Kept at the end: what an error keeps from being handed out is read again.
        reached: dict[str, bytes] = {}
        for number in range(len(streams)):
            stream = streams[(number + self._turn) % len(streams)]
            left = limit - len(messages)
            if left <= 0:
                break
            place = self._places.get(stream)
            if place is None:
                continue
            share = max(left // (len(streams) - number), 1)
            answer = self._ask(
                *("EVAL", READ, 0, self._prefix, self._group, self._me),
                *(stream, place.seen, share),
            )
            if answer == b"lost":
                del self._places[stream]
                self._notes.note("rebalance")
            elif isinstance(answer, bytes):
                self._broken(stream, answer)
            else:
                messages += self._messages(stream, place, answer)
                if answer:
                    reached[stream] = answer[-1][0]
        for stream, entry in reached.items():
            self._places[stream].seen = entry
        return messages

    def _messages(self, stream: str, place: _Place, entries: Sequence[Any]) -> list[Message]:
        messages, gone = [], 0
        for entry, fields in entries:
            if fields is None:  # deleted since it was handed to somebody
                gone += 1
                place.owed.append(entry)
                continue
            name = entry.decode()
            messages.append(
                Message(
                    value=dict(zip(fields[::2], fields[1::2], strict=True)),
                    key=None,
                    time=int(name.partition("-")[0]) / 1000,
                    partition=stream,
                    offset=name,
                    event_id=event_id(stream, name),
                    token=_Token(stream, entry, place.assignment),
                )
            )
        self._tell_lost(stream, gone)
        return messages

    def _acknowledge(self) -> None:
        for stream, place in self._places.items():
            while place.owed:
                some = place.owed[:ACKNOWLEDGED]
                self._ask("XACK", stream, self._group, *some)
                del place.owed[: len(some)]

    def _ask(self, *command: Any) -> Any:
        """The answer to a command that may be done twice."""
        try:
            return self._client.command(*command)
        except StoreFull as error:
            raise SourceAway(str(error)) from None
        except StoreUnavailable as error:
            raise SourceAway(
                f"{self._url}: no Redis answers there: see that one runs and that this machine "
                f"reaches it ({error.__cause__ or error})"
            ) from None


def _number(entry: bytes) -> tuple[int, int]:
    """An entry's id, to be compared."""
    milliseconds, _, number = entry.partition(b"-")
    return int(milliseconds), int(number)


def _pairs(flat: Sequence[Any]) -> dict[bytes, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
