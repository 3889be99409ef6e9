"""Where the partitions of a topic are read from: never behind a message that was not read.

Kafka's client would jump to an end or a beginning where a group has no position, or one that is not
there any more. Here a group's first positions are committed before anything is read; from then on,
which the store remembers, a position that is absent or gone is the beginning of what is there.
"""

from __future__ import annotations

from collections.abc import Sequence

from confluent_kafka import OFFSET_END, Consumer, KafkaException, TopicPartition

from longrec.ingest.source import Begin, Begun, Notes

ASK = 5.0
"""Seconds for an answer about positions."""

Where = tuple[str, int]
"""A topic and a partition of it."""


class Positions:
    """Where a group reads its topics from.

    Parameters
    ----------
    topics, group : their names.
    begin : where the group begins if it has read nothing yet.
    begun : which groups have begun.
    notes : what was lost or is read again is counted and told there.
    """

    def __init__(
        self, topics: Sequence[str], group: str, begin: Begin, begun: Begun, notes: Notes
    ) -> None:
        self._topics, self._group, self._begin = topics, group, begin
        self._begun, self._notes = begun, notes

    def group_key(self, topic: str) -> str:
        """By which it is kept that the group has begun on a topic."""
        return f"kafka {topic} {self._group}"

    def starts(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> dict[Where, int]:
        """Where each partition is read from: never behind a message that was not read."""
        if not partitions:
            return {}
        begun = {t for t in self._topics if self._begun.known(self.group_key(t))}
        given = [(p.topic, p.partition) for p in partitions]
        # The first member of a group decides it for all partitions, as of now.
        every = [where for where in self._every(consumer) if where[0] not in begun]
        asked = list(dict.fromkeys(given + every))
        starts, new = {}, []
        kept = consumer.committed([TopicPartition(*where) for where in asked], timeout=ASK)
        for one in kept:
            if one.error is not None:
                raise KafkaException(one.error)
            where = one.topic, one.partition
            low, high = consumer.get_watermark_offsets(one, timeout=ASK, cached=False)
            if one.offset < 0:
                known = one.topic in begun
                starts[where] = low if known else self.first(consumer, where, low, high)
                new.append(TopicPartition(*where, starts[where]))
                if known:
                    self._notes.note(
                        "reset",
                        f"{named(where)}: the group {self._group!r} has no position there any "
                        f"more, or never had one: it is read from its beginning, {low}; what is "
                        "logged already is not logged again",
                    )
            else:
                # One behind the end is told by the broker when it is read from there.
                starts[where] = self.possible(where, one.offset, low, max(high, one.offset))
        if new:
            for one in consumer.commit(offsets=new, asynchronous=False):
                if one.error is not None:
                    raise KafkaException(one.error)
        for topic in self._topics:
            self._begun.note(self.group_key(topic))
        return {where: starts[where] for where in given}

    def _every(self, consumer: Consumer) -> list[Where]:
        found = consumer.list_topics(timeout=ASK).topics
        return [(t, p) for t in self._topics if t in found for p in sorted(found[t].partitions)]

    def first(self, consumer: Consumer, where: Where, low: int, high: int) -> int:
        if self._begin == "earliest":
            return low
        if self._begin == "latest":
            return high
        asked = TopicPartition(*where, max(int(self._begin * 1000), 0))
        [found] = consumer.offsets_for_times([asked], timeout=ASK)
        if found.error is not None:
            raise KafkaException(found.error)
        offset = int(found.offset)
        return high if offset == OFFSET_END or offset < 0 else offset

    def possible(self, where: Where, offset: int, low: int, high: int) -> int:
        """An offset, if it is in the partition; else the first that is there."""
        if offset < low:
            self._notes.note(
                "lost",
                f"{named(where)}: Kafka has deleted {low - offset:,} messages that the group "
                f"{self._group!r} had not read, up to {low}; keep them for longer (retention.ms)",
                low - offset,
            )
            return low
        if offset > high:
            self._notes.note(
                "reset",
                f"{named(where)}: it ends at {high}, and the group's position is {offset}: the "
                f"topic was made anew, or cut; it is read from {low}",
            )
            return low
        return offset


def named(where: Where) -> str:
    """A partition in words."""
    return f"{where[0]}[{where[1]}]"
