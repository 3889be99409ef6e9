"""Kafka as a source, on a real broker: groups, positions, and what gets lost on the way."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ingest.brokers import SESSION, Broker, need_kafka
from ingest.ingest_jobs import event, logged, parts
from serving.redis_server import free_port

from longrec.core.errors import LongrecError, UsageError
from longrec.ingest.address import SourceAddress
from longrec.ingest.source import Begun, Message, Notes, SourceAway
from longrec.serving.stream.stream import Stream

pytestmark = pytest.mark.slow
NAMES = (f"t{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker() as broker:
        yield broker


@pytest.fixture
def source(broker: Broker, stream: Stream) -> Iterator[Callable[..., Any]]:
    need_kafka()
    from longrec.ingest.kafka import KafkaSource

    made = []

    def make(topic: str, begin: Any = "earliest", said: Any = None, **more: Any) -> KafkaSource:
        notes = Notes((said if said is not None else []).append)
        address = SourceAddress.parse(broker.url(topic))
        begun = Begun(stream.store)
        one = KafkaSource(address, f"g-{topic}", begin, SESSION, begun, notes, more)
        one.notes = notes  # type: ignore[attr-defined]
        made.append(one)
        return one

    yield make
    for one in made:
        one.close()


def send(broker: Broker, topic: str, numbers: range, partitions: int = 1, user: str = "") -> None:
    """Events of a user per partition, or of one in all; their numbers go round the partitions."""
    broker.produce(
        topic,
        (
            (n % partitions, json.dumps(event(user or f"u{n % partitions}", n)).encode(), {})
            for n in numbers
        ),
    )


def read(source: Any, many: int, seconds: float = 30) -> list[Message]:
    found: list[Message] = []
    end = time.monotonic() + seconds
    while len(found) < many and time.monotonic() < end:
        found += source.poll(many - len(found), 0.1)
    return found


def offsets(messages: list[Message]) -> list[str]:
    return [f"{one.partition.rpartition('[')[2][:-1]}:{one.offset}" for one in messages]


def kept(broker: Broker, topic: str, partitions: int) -> list[int]:
    """The group's positions, as the broker has them."""
    from confluent_kafka import Consumer, TopicPartition

    one = Consumer({"bootstrap.servers": broker.address, "group.id": f"g-{topic}"})
    asked = [TopicPartition(topic, n) for n in range(partitions)]
    found = [each.offset for each in one.committed(asked, timeout=10)]
    one.close()
    return found


def test_events_are_logged_once_and_a_rerun_goes_on(broker, stream, tmp_path):
    topic = broker.create(next(NAMES), 3)
    send(broker, topic, range(30), 3)
    broker.produce(topic, [(1, b"{", {"key": b"\xff"}), (2, None, {})])

    def run() -> Any:
        limits = {"session": SESSION, "group": f"g-{topic}", "until_end": True, "batch": 7}
        one = parts(stream, broker.url(topic), tmp_path, **limits)
        return one, one.run()

    one, counts = run()
    assert counts.accepted == 30
    assert [letter["reason"] for letter in one.dead()] == [
        "the message is no JSON",
        "the message is empty",
    ]
    assert kept(broker, topic, 3) == [10, 11, 11], "of all partitions of a batch"
    send(broker, topic, range(30, 36), 3)
    _, counts = run()
    assert counts[:2] == (6, 0)
    for user in range(3):
        assert logged(stream.store, f"u{user}") == list(range(user, 36, 3))


def test_a_new_group_begins_where_it_is_told_for_all_partitions(broker, source):
    topic = broker.create(next(NAMES), 2)
    send(broker, topic, range(4), 2)
    one = source(topic, "latest")
    one.open()
    one.poll(1, 0.0)
    end = time.monotonic() + 30
    while not one.lag() and time.monotonic() < end:
        one.poll(1, 0.1)
    assert kept(broker, topic, 2) == [2, 2], "before anything is read"
    one.close()
    send(broker, topic, range(4, 8), 2)
    again = source(topic, "latest")
    again.open()
    assert sorted(offsets(read(again, 4))) == ["0:2", "0:3", "1:2", "1:3"]


def test_a_position_that_is_absent_skips_nothing(broker, source, stream):
    topic = broker.create(next(NAMES), 1)
    send(broker, topic, range(3))
    said: list[str] = []
    one = source(topic, "latest", said)
    Begun(stream.store).note(
        one._positions.group_key(topic)
    )  # it has begun, and its positions have expired
    one.open()
    assert offsets(read(one, 3)) == ["0:0", "0:1", "0:2"]
    assert one.notes.counts["reset"] == 1
    assert "not logged again" in said[0]


def test_a_position_that_has_expired_is_the_first_that_is_there(broker, source, monkeypatch):
    from longrec.ingest import kafka

    monkeypatch.setattr(kafka, "LOOK_EVERY", 0.3)
    topic = broker.create(next(NAMES), 1)
    send(broker, topic, range(6))
    one = source(topic)
    said: list[str] = []
    notes = one._positions._notes = Notes(said.append)
    assert one._positions.possible((topic, 0), 2, 4, 6) == 4
    assert notes.counts["lost"] == 2
    assert "2 messages" in said[0]
    assert one._positions.possible((topic, 0), 9, 4, 6) == 4
    assert notes.counts["reset"] == 1
    assert [one._positions.possible((topic, 0), at, 4, 6) for at in (4, 5, 6)] == [4, 5, 6]
    # And at the broker, a group's position that lies behind the end.
    one.open()
    messages = read(one, 6)
    ahead = messages[-1]._replace(token=messages[-1].token._replace(offset=99))
    one.commit([ahead])
    one.close()
    again = source(topic)
    again.open()
    assert offsets(read(again, 6)) == [f"0:{n}" for n in range(6)]


def test_a_time_is_a_beginning(broker, source):
    one, asked = source("t", 1_700_000_000.003), []

    class Answers:  # Tansu answers 0 for every time
        def __init__(self, offset: int) -> None:
            self.offset = offset

        def offsets_for_times(self, partitions: list[Any], timeout: float) -> list[Any]:
            asked.append(partitions[0].offset)
            partitions[0].offset = self.offset
            return partitions

    assert one._positions.first(Answers(5), ("t", 0), 2, 9) == 5
    assert one._positions.first(Answers(-1), ("t", 0), 2, 9) == 9
    assert asked == [1_700_000_000_003] * 2


def test_what_was_read_before_a_revoke_is_not_kept(broker, source):
    topic = broker.create(next(NAMES), 2)
    send(broker, topic, range(20), 2)
    first, second = source(topic), source(topic)
    first.open()
    before = read(first, 20)
    second.open()
    mine: list[Message] = []
    end = time.monotonic() + 30
    while (len(second.lag()) < 1 or len(first.lag()) != 1) and time.monotonic() < end:
        first.keep_alive()
        mine += second.poll(100, 0.1)
    assert len(first.lag()) == len(second.lag()) == 1
    mine += read(second, 10 - len(mine))
    second.commit(mine)
    assert sorted(kept(broker, topic, 2)) == [0, 10]
    first.commit(before[:3])  # of both partitions, and of an assignment that has ended
    assert sorted(kept(broker, topic, 2)) == [0, 10]
    rest = read(first, 10)
    assert {one.partition for one in rest} != {one.partition for one in mine}
    assert offsets(rest) == offsets([one for one in before if one.partition == rest[0].partition])


def test_a_topic_made_anew_is_read_though_its_offsets_are_known(broker, stream, tmp_path):
    topic = broker.create(next(NAMES), 1)
    limits = {"session": SESSION, "group": f"g-{topic}", "until_end": True}
    send(broker, topic, range(4), user="ann")
    assert parts(stream, broker.url(topic), tmp_path, **limits).run().accepted == 4
    broker.delete(topic)
    broker.create(topic, 1)
    send(broker, topic, range(4, 6), user="ann")
    assert parts(stream, broker.url(topic), tmp_path, **limits).run().accepted == 2
    assert logged(stream.store, "ann") == list(range(6))


def test_a_consumer_whose_broker_was_started_anew_reads_on(stream, tmp_path, monkeypatch):
    need_kafka()
    from longrec.ingest import kafka, kafka_positions

    monkeypatch.setattr(kafka, "LOOK_EVERY", 0.5)
    monkeypatch.setattr(kafka, "START", 1.0)
    monkeypatch.setattr(kafka, "ASK", 1.0)
    monkeypatch.setattr(kafka_positions, "ASK", 1.0)
    monkeypatch.setattr(kafka, "STALLED", 3.0)
    with Broker() as own:
        topic = own.create("shop", 1)
        send(own, topic, range(5), user="ann")
        said: list[str] = []
        one = parts(stream, own.url(topic), tmp_path, session=SESSION, said=said, patience=120.0)
        done: list[str] = []

        def progress(line: str) -> None:
            if logged(stream.store, "ann")[-1:] == [4] and not done:
                done.append("restart")
                own.kill()
                own.start()
                own.create(topic, 1)
                send(own, topic, range(5, 8), user="ann")
            one.stop.told = logged(stream.store, "ann")[-1:] == [7]

        one.run(progress)
        assert logged(stream.store, "ann") == list(range(8)), said


def test_a_member_that_reads_nothing_begins_anew(broker, source, monkeypatch):
    from longrec.ingest import kafka

    monkeypatch.setattr(kafka, "LOOK_EVERY", 0.1)
    topic = broker.create(next(NAMES), 1)
    said: list[str] = []
    one = source(topic, said=said)
    one.open()
    end = time.monotonic() + 30
    while not one.lag() and time.monotonic() < end:
        one.poll(1, 0.1)
    one._patience = 0.3
    from confluent_kafka import TopicPartition

    one._consumer.pause([TopicPartition(topic, 0)])  # it lives, and nothing comes
    send(broker, topic, range(2))
    assert offsets(read(one, 2)) == ["0:0", "0:1"]
    assert one.notes.counts["reopened"] == 1
    assert "made anew" in said[0]


def test_what_was_read_in_front_of_a_problem_is_handed_out(broker, source, monkeypatch):
    from confluent_kafka import KafkaError, KafkaException

    topic = broker.create(next(NAMES), 1)
    send(broker, topic, range(6))
    one = source(topic)
    one.open()
    first = read(one, 2)
    consume = one._consumer.consume

    class Wrong:
        def __getattr__(self, name: str) -> Any:
            return lambda *_: None

        def error(self) -> Any:
            return KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)

    class Client:
        def __init__(self, consumer: Any, work: Any) -> None:
            self._consumer, self.consume = consumer, work

        def __getattr__(self, name: str) -> Any:
            return getattr(self._consumer, name)

    consumer = one._consumer
    answers = iter([lambda: consume(1, timeout=10), lambda: [*consume(1, timeout=10), Wrong()]])
    one._consumer = Client(consumer, lambda *a, **k: next(answers)())
    second = one.poll(9, 1)
    assert offsets(first + second) == ["0:0", "0:1", "0:2", "0:3"]
    one.commit(first + second)
    one._consumer = consumer
    with pytest.raises(LongrecError, match="READ"):
        one.poll(9, 1)

    def lost(*arguments: Any, **more: Any) -> Any:
        consume(2, timeout=10)  # read, and never seen here
        raise KafkaException(KafkaError(KafkaError._TRANSPORT))

    one._consumer = Client(consumer, lost)
    with pytest.raises(SourceAway):
        one.poll(9, 1)
    assert offsets(read(one, 2)) == ["0:4", "0:5"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("stats_cb", "x"), ("oauth_cb", "x"), ("default.topic.config", "x")),
        *(("security.protocol", "hunter2"), ("queued.max.messages.kbytes", "0")),
    ],
)
def test_a_setting_that_the_client_refuses_is_told_in_a_line_without_its_value(source, key, value):
    with pytest.raises(UsageError, match=r"--client: .*librdkafka's settings") as told:
        source("t", **{key: value}).open()
    assert "\n" not in str(told.value)
    assert f'"{value}"' not in str(told.value)


def test_a_callback_asks_nothing_of_the_client(source):
    from confluent_kafka import TopicPartition

    one, calls = source("t"), []

    class Client:
        def __getattr__(self, name: str) -> Any:
            return lambda *_, **__: calls.append(name)

    one._assigned(Client(), [TopicPartition("t", 0)])
    one._revoked(Client(), [TopicPartition("t", 0)])
    assert calls == ["assign"]


def test_what_is_wrong_is_told_with_its_mend(broker, source, stream, tmp_path, monkeypatch):
    from longrec.ingest import kafka, kafka_settings

    monkeypatch.setattr(kafka, "START", 0.5)
    with pytest.raises(SourceAway, match="no topic 'nothing'"):
        source("nothing").open()
    with pytest.raises(UsageError, match="librdkafka"):
        source("nothing", **{"no.such.setting": "1"}).open()
    path = tmp_path / "client"
    path.write_text("# TLS\nsecurity.protocol = PLAINTEXT\n\n")
    assert kafka_settings.read_client_file(path) == {"security.protocol": "PLAINTEXT"}
    for line in ("enable.auto.commit=true", "auto.commit.enable=true", "client.id=a\0b"):
        path.write_text(line)
        with pytest.raises(UsageError, match="line 1"):
            kafka_settings.read_client_file(path)
    from confluent_kafka import KafkaError

    for code, words in {
        KafkaError._SSL: r"ssl\.ca\.location",
        KafkaError._AUTHENTICATION: r"sasl\.username",
        KafkaError.GROUP_AUTHORIZATION_FAILED: "READ on the topic",
        KafkaError.INVALID_SESSION_TIMEOUT: "--session",
        KafkaError._TRANSPORT: "no broker answers",
    }.items():
        told = kafka_settings.in_words(KafkaError(code), "kafka://b/t", "b")
        assert re.search(words, str(told))
        assert isinstance(told, SourceAway) == (code == KafkaError._TRANSPORT)
    nobody = parts(stream, f"kafka://127.0.0.1:{free_port()}/t", tmp_path)
    with pytest.raises(LongrecError, match="no broker answers"):
        nobody.run()
