"""Topics of Kafka as a source: a member of a consumer group, whose positions Kafka keeps.

librdkafka speaks the protocol (docs/decisions/0056-kafka-client.md). What is here:

- Each partition that is given to this member has a place: which message comes next, and the number
  of that assignment. What was read under an earlier one is neither handed out nor committed.
- Where reading begins is decided in kafka_positions.py, and never by the client.
- A member that reads nothing while there is something to read begins anew.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka import Message as KafkaMessage

from longrec.core.errors import LongrecError
from longrec.core.format import listed
from longrec.ingest.address import SourceAddress, shown
from longrec.ingest.kafka_positions import ASK, Positions, Where, named
from longrec.ingest.kafka_settings import NOT_OURS, client_settings, in_words, log, refused
from longrec.ingest.source import Begin, Begun, Message, Notes, SourceAway, event_id

START = 10.0
"""Seconds for a first answer."""
LOOK_EVERY = 5.0
"""Seconds without a message after which it is looked whether there is one."""
STALLED = 30.0
"""Seconds without a message, though there is one, after which the member begins anew."""
MAX_STALLED = 600.0


@dataclass
class _Place:
    """How far a partition was handed out.

    next : the next offset; assignment : its number; end : of the partition, as it was last seen;
    asked : the same as the broker says it when it is asked, which not every broker does rightly.
    """

    next: int
    assignment: int
    end: int = -1
    asked: int = -1


class _Token(NamedTuple):
    """What a message is committed by."""

    where: Where
    offset: int
    assignment: int


class KafkaSource:
    """Topics as one member of a group reads them; see `source.Source`.

    Parameters
    ----------
    address : SourceAddress
    group : name of the consumer group.
    begin : where a group begins that has read nothing yet.
    session : seconds after which a member that says nothing loses its partitions.
    begun : which groups have begun.
    notes : what happens is counted and told there.
    client : further settings of librdkafka.
    """

    def __init__(
        self,
        address: SourceAddress,
        group: str,
        begin: Begin,
        session: float,
        begun: Begun,
        notes: Notes,
        client: dict[str, str],
    ) -> None:
        self._brokers, self._topics = address.server, address.names
        self._positions = Positions(self._topics, group, begin, begun, notes)
        self._notes = notes
        self._settings = client_settings(address.server, group, session, client)
        self._client = client
        self._url = shown(address.scheme, address.server, address.names)
        self._consumer: Consumer | None = None
        self._places: dict[Where, _Place] = {}
        self._owed: dict[Where, int] = {}  # to be committed; none of a partition that was taken
        self._held: list[KafkaMessage] = []  # read while nobody could take them
        self._assignments = 0
        self._given: list[TopicPartition] = []  # by the group, and not read yet
        self._problem: LongrecError | None = None  # behind messages that are handed out first
        self._told_error: KafkaError | None = None
        self._last_message = self._last_look = time.monotonic()
        self._patience = STALLED

    @property
    def url(self) -> str:
        return self._url

    def open(self) -> None:
        try:
            self._consumer = Consumer(self._settings | {"error_cb": self._told}, logger=log)
        except (KafkaException, TypeError, AttributeError, ValueError) as error:
            raise refused(error, self._client) from None
        self._problem, self._told_error, self._given = None, None, []
        try:
            try:
                self._check_topics(START)
            except SourceAway:
                self._consumer.poll(0)  # what it is told of the reason; it reads nothing yet
                if self._told_error is not None:
                    raise in_words(self._told_error, self._url, self._brokers) from None
                raise
            self._consumer.subscribe(
                list(self._topics),
                on_assign=self._assigned,
                on_revoke=self._revoked,
                on_lost=self._revoked,
            )
        except BaseException:
            self._consumer.close()
            self._consumer = None
            raise
        self._last_message = self._last_look = time.monotonic()

    def poll(self, limit: int, seconds: float) -> list[Message]:
        if self._consumer is None:
            self.open()
        if self._problem is not None:
            problem, self._problem = self._problem, None
            raise problem
        if self._owed:
            self._commit_owed()
        if self._held:
            raw, self._held = self._held[:limit], self._held[limit:]
        else:
            raw = self._consume(limit, seconds)
        messages = self._handed_out(raw)
        now = time.monotonic()
        if messages:
            self._last_message, self._patience = now, STALLED
        elif now - max(self._last_look, self._last_message) > LOOK_EVERY:
            self._last_look = now
            self._look(now)
        return messages

    def commit(self, messages: Sequence[Message]) -> None:
        for message in messages:
            where, offset, assignment = message.token
            place = self._places.get(where)
            if place is not None and place.assignment == assignment:
                self._owed[where] = max(self._owed.get(where, 0), offset + 1)
        self._commit_owed()

    def keep_alive(self) -> None:
        if self._consumer is None:
            return
        assigned = [TopicPartition(*where) for where in self._places]
        with suppress(KafkaException):
            self._consumer.pause(assigned)
        self._held += self._consume(1, 0.01)
        still = [TopicPartition(*where) for where in self._places]
        with suppress(KafkaException):
            self._consumer.resume(still)
        self._last_message = time.monotonic()

    def lag(self) -> dict[str, int]:
        self._ends()
        return {
            named(where): max(place.end - place.next, 0) for where, place in self._places.items()
        }

    def close(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is None:
            return
        with suppress(LongrecError):
            self._commit_owed(consumer)
        consumer.close()
        self._places.clear()

    # ---- what librdkafka calls, in the midst of `consume`

    def _told(self, error: KafkaError) -> None:
        self._told_error = error

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # Nothing may be asked of the client in here: it ends the process by an assertion where
        # another callback follows in the same call. So reading begins once it has returned.
        consumer.assign([])
        self._given = list(partitions)
        self._notes.note("rebalance")

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        for one in partitions:
            where = one.topic, one.partition
            self._places.pop(where, None)
            self._owed.pop(where, None)
        self._given = []
        self._held = [one for one in self._held if _where(one) in self._places]
        self._notes.note("rebalance")

    # ---- reading

    def _consume(self, limit: int, seconds: float) -> list[KafkaMessage]:
        assert self._consumer is not None
        try:
            found: list[KafkaMessage] = self._consumer.consume(1, timeout=seconds)
            if found and limit > 1:  # what has come, and no wait for a batch to be full
                found += self._consumer.consume(limit - 1, timeout=0.0)
        except KafkaException as error:
            self._drop()  # what it had read by then is read again
            raise self._words(error) from None
        if self._given:
            self._start()
        return found

    def _start(self) -> None:
        """Begin to read the partitions that were given to this member."""
        assert self._consumer is not None
        given, self._given = self._given, []
        try:
            starts = self._positions.starts(self._consumer, given)
            self._consumer.assign([TopicPartition(*where, at) for where, at in starts.items()])
        except KafkaException as error:
            self._drop()
            raise self._words(error) from None
        except LongrecError:
            self._drop()
            raise
        self._assignments += 1
        for where, offset in starts.items():
            self._places[where] = _Place(offset, self._assignments)
        self._last_message = time.monotonic()

    def _handed_out(self, raw: Sequence[KafkaMessage]) -> list[Message]:
        """The messages among what was read; a problem between them is raised when they are done."""
        messages, problem = [], None
        for one in raw:
            try:
                message = self._message(one)
            except LongrecError as error:
                problem = problem or error
            else:
                messages += [] if message is None else [message]
        if problem is not None and not messages:
            raise problem
        self._problem = problem
        return messages

    def _message(self, raw: KafkaMessage) -> Message | None:
        """What is handed out of a message; None where it is none, or not this member's."""
        where = _where(raw)
        place = self._places.get(where)
        error = raw.error()
        if error is not None:
            self._event(error, where, place, raw.offset())
            return None
        offset = raw.offset()
        if place is None or offset is None or offset < place.next:
            return None
        place.next = offset + 1
        _, moment = raw.timestamp()
        key = raw.key()
        return Message(
            value=raw.value(),
            key=key.encode() if isinstance(key, str) else key,
            time=moment / 1000 if moment > 0 else None,
            partition=named(where),
            offset=str(offset),
            # With its time: of a topic that was made anew offsets come again.
            event_id=event_id(where[0], f"{where[1]}-{offset}-{max(moment, 0)}"),
            token=_Token(where, offset, place.assignment),
        )

    def _event(
        self, error: KafkaError, where: Where, place: _Place | None, offset: int | None
    ) -> None:
        """What stands between messages: ends of partitions, and errors."""
        code = error.code()
        if code == KafkaError._PARTITION_EOF:
            if place is not None and offset is not None:  # behind the marks of transactions, too
                place.next = place.end = max(place.next, offset)
            return
        if code in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            if place is not None:
                self._seek_possible(where, place)
            return
        if code == KafkaError._MAX_POLL_EXCEEDED:  # it joins again by itself
            self._places.clear()
            self._owed.clear()
            self._held.clear()
            return
        words = in_words(error, self._url, self._brokers)
        unknown = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC)
        if code in unknown or isinstance(words, SourceAway):
            self._check_topics(ASK)
            return
        raise words

    def _seek_possible(self, where: Where, place: _Place) -> None:
        assert self._consumer is not None
        try:
            low, high = self._consumer.get_watermark_offsets(
                TopicPartition(*where), timeout=ASK, cached=False
            )
            place.next = self._positions.possible(where, place.next, low, high)
            self._consumer.seek(TopicPartition(*where, place.next))
        except KafkaException as error:
            self._drop()
            raise self._words(error) from None

    def _look(self, now: float) -> None:
        """Where nothing comes: whether there is something to read, and somebody who answers."""
        self._check_topics(ASK)
        self._ends()
        for where, place in list(self._places.items()):
            if 0 <= place.end < place.next:
                self._seek_possible(where, place)
        elsewhere = any(place.asked != place.next for place in self._places.values())
        if elsewhere and now - self._last_message > self._patience:
            self._notes.note(
                "reopened",
                f"{self._url}: nothing came for {self._patience:.0f} s although a partition ends "
                "elsewhere: the connection is made anew",
            )
            self._patience = min(2 * self._patience, MAX_STALLED)
            self._drop()

    def _ends(self) -> None:
        """Ask where the partitions end."""
        if self._consumer is None:
            return
        try:
            for where, place in self._places.items():
                partition = TopicPartition(*where)
                ask = self._consumer.get_watermark_offsets
                _, place.asked = ask(partition, timeout=ASK, cached=False)
                _, read = ask(partition, cached=True)  # what came with the last messages
                place.end = max(place.asked, read)
        except KafkaException as error:
            raise self._words(error) from None

    def _check_topics(self, seconds: float) -> None:
        """See that a broker answers, and has the topics."""
        assert self._consumer is not None
        try:
            found = self._consumer.list_topics(timeout=seconds).topics
        except KafkaException as error:
            raise self._words(error) from None
        for topic in self._topics:
            if topic not in found or found[topic].error is not None:
                names = sorted(name for name in found if not name.startswith("__"))
                there = listed(names)
                raise SourceAway(
                    f"{self._url}: there is no topic {topic!r} that this user may read (there "
                    f"{'are: ' + there if names else 'is none'}): create it, or name another one"
                )

    def _commit_owed(self, consumer: Consumer | None = None) -> None:
        consumer = consumer or self._consumer
        if not self._owed or consumer is None:
            return
        offsets = [TopicPartition(*where, offset) for where, offset in self._owed.items()]
        try:
            done = consumer.commit(offsets=offsets, asynchronous=False)
            errors = [each.error for each in done if each.error is not None]
        except KafkaException as error:
            errors = [error.args[0]]
        for one in errors:
            if one.code() not in NOT_OURS:
                raise in_words(one, self._url, self._brokers)
        if errors:
            self._notes.note("commit_refused")
        self._owed.clear()

    # ---- beginning anew

    def _drop(self) -> None:
        """Give the connection up; the next poll makes another one."""
        consumer, self._consumer = self._consumer, None
        self._places.clear()
        self._owed.clear()
        self._held.clear()
        if consumer is not None:
            consumer.close()
        self._given = []

    def _words(self, error: KafkaException) -> LongrecError:
        return in_words(error.args[0], self._url, self._brokers)


def _where(raw: KafkaMessage) -> Where:
    partition = raw.partition()
    return raw.topic() or "", -1 if partition is None else partition
