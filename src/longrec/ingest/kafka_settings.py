"""How a Kafka consumer is set up, and what its errors mean in plain words."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from longrec.core.errors import LongrecError, UsageError, first_line
from longrec.ingest.source import SourceAway

OURS = {
    *("bootstrap.servers", "group.id", "enable.auto.commit", "enable.auto.offset.store"),
    *("auto.offset.reset", "enable.partition.eof", "session.timeout.ms", "group.protocol"),
    *("partition.assignment.strategy", "metadata.broker.list", "auto.commit.interval.ms"),
    *("group.instance.id", "heartbeat.interval.ms", "auto.commit.enable", "offset.store.method"),
}
"""What a file of settings may not change: the promises of `longrec consume` stand on them."""
QUEUE_KIB = 16_384
"""Messages that wait in the client, of all partitions together, at most."""
WAIT_MS = 10_000
"""Milliseconds for a broker's answer."""

log = logging.getLogger("longrec.ingest.kafka")
log.addHandler(logging.NullHandler())  # else its lines would go to standard error, in its own form

_AWAY = {
    *(KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE),
    *(KafkaError._TIMED_OUT, KafkaError._TIMED_OUT_QUEUE, KafkaError._WAIT_COORD),
    *(KafkaError._MSG_TIMED_OUT, KafkaError._IN_PROGRESS, KafkaError.REQUEST_TIMED_OUT),
    *(KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.COORDINATOR_LOAD_IN_PROGRESS),
    *(KafkaError.NOT_COORDINATOR, KafkaError.LEADER_NOT_AVAILABLE, KafkaError.NETWORK_EXCEPTION),
    *(KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.BROKER_NOT_AVAILABLE),
}
NOT_OURS = {
    *(KafkaError.ILLEGAL_GENERATION, KafkaError.UNKNOWN_MEMBER_ID, KafkaError._STATE),
    *(KafkaError.REBALANCE_IN_PROGRESS, KafkaError._NO_OFFSET, KafkaError._ASSIGNMENT_LOST),
    *(KafkaError.FENCED_INSTANCE_ID, KafkaError._FENCED),
}
"""Of a commit: others read these partitions by now."""
_LOGIN = {
    *(KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED),
    *(KafkaError.UNSUPPORTED_SASL_MECHANISM, KafkaError.ILLEGAL_SASL_STATE),
}
_RIGHTS = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
}


def read_client_file(path: Path) -> dict[str, str]:
    """Settings of the client, a line KEY=VALUE each, such as those of TLS and of the login.

    Raises
    ------
    UsageError
        When it cannot be read, or changes what `longrec consume` decides; no value is shown.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--client {path} cannot be read: {type(error).__name__}") from error
    settings = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key, equals, value = line.partition("=")
        if not equals:
            raise UsageError(f"{path}, line {number}, is not KEY=VALUE")
        if (key := key.strip()) in OURS:
            raise UsageError(f"{path}, line {number}: {key} is longrec's to set; delete the line")
        if "\0" in line:
            raise UsageError(f"{path}, line {number}: {key!a:.40} has a NUL byte")
        settings[key] = value.strip()
    return settings


def refused(error: Exception, settings: dict[str, str]) -> UsageError:
    """What librdkafka, or its Python side, says of settings; without their values."""
    said = error.args[0].str() if isinstance(error, KafkaException) else str(error)
    words = first_line(Exception(said))
    for value in settings.values():
        words = words.replace(f'"{value}"', "its value") if value else words
    return UsageError(f"--client: {words}: these are librdkafka's settings, KEY=VALUE")


def client_settings(
    brokers: str, group: str, session: float, client: dict[str, str]
) -> dict[str, Any]:
    """All settings of the consumer."""
    milliseconds = int(session * 1000)
    return {
        "log_level": 3,
        "socket.timeout.ms": WAIT_MS,
        "queued.max.messages.kbytes": QUEUE_KIB,
        "reconnect.backoff.max.ms": 2000,
        "topic.metadata.refresh.interval.ms": 10_000,
        **client,
        "bootstrap.servers": brokers,
        "group.id": group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        # A position that is not there is looked at, not jumped over.
        "auto.offset.reset": "error",
        "enable.partition.eof": True,
        "session.timeout.ms": milliseconds,
        "heartbeat.interval.ms": max(min(3000, milliseconds // 5), 1),
        "partition.assignment.strategy": "range",
    }


def in_words(error: KafkaError, url: str, brokers: str) -> LongrecError:
    """An error of Kafka's in words that say what to do."""
    code = error.code()
    said = first_line(Exception(error.str()))
    if code in _LOGIN:
        return LongrecError(
            f"{url} refuses the login: give security.protocol, sasl.mechanism, sasl.username and "
            f"sasl.password that it knows in a file for --client ({error.name()})"
        )
    if code == KafkaError._SSL:
        return LongrecError(
            f"{url}: no TLS connection to {brokers} ({said}): give the broker's security.protocol "
            "and ssl.ca.location in a file for --client"
        )
    if code in _RIGHTS:
        return LongrecError(
            f"{url}: this user may not read the topic or join the group ({error.name()}): let it, "
            "with READ on the topic and on the group"
        )
    if code == KafkaError.INVALID_SESSION_TIMEOUT:
        return LongrecError(
            f"{url} refuses this --session: give one between the brokers' "
            "group.min.session.timeout.ms and group.max.session.timeout.ms, 6 to 1800 seconds "
            "unless they were changed"
        )
    if code in NOT_OURS:
        return SourceAway(f"{url}: the group shares its partitions out anew ({said})")
    if code in _AWAY or error.retriable():
        return SourceAway(
            f"{url}: no broker answers at {brokers}: see that one runs there and that this machine "
            f"reaches it ({said})"
        )
    return LongrecError(f"{url}: Kafka answered: {said} ({error.name()})")
