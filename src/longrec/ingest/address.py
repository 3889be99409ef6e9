"""Where events come from, as a URL says it.

kafka://broker:9092[,broker:9092]/topic[,topic]
redis://[user:password@]host:6379/0/stream[,stream]    (rediss://… with TLS)
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote, unquote

from longrec.core.errors import UsageError

KAFKA, REDIS = ("kafka",), ("redis", "rediss")


class SourceAddress(NamedTuple):
    """A source's URL taken apart.

    scheme : kafka, redis or rediss.
    server : of Kafka the brokers with commas between; of Redis the URL of the database, with its
        password: not to be shown.
    names : topics or streams.
    """

    scheme: str
    server: str
    names: tuple[str, ...]

    def __repr__(self) -> str:  # without the server, which may have a password
        return f"SourceAddress({self.scheme!r}, names={self.names!r})"

    @classmethod
    def parse(cls, url: str) -> SourceAddress:
        """Take a URL apart; its errors, UsageError, show no part of a password."""
        scheme, separator, rest = url.partition("://")
        if not separator or scheme not in KAFKA + REDIS:
            raise UsageError(
                f"the source is {scheme + '://…' if separator else 'no URL'}; give "
                "kafka://broker:9092/topic or redis://host:6379/0/stream"
            )
        if scheme in KAFKA:
            return cls(scheme, *_kafka(rest))
        rest, question, options = rest.partition("?")
        found = re.fullmatch(r"([^/]*)/(\d+)/(.+)", rest)
        if found is None:
            raise UsageError(
                f"the source {scheme}://… names no stream: write {scheme}://host:6379/0/stream, "
                "with the database's number in front of it"
            )
        host, number, names = found.groups()
        return cls(scheme, f"{scheme}://{host}/{number}{question}{options}", _names(names))


def _kafka(rest: str) -> tuple[str, tuple[str, ...]]:
    servers, _, topics = rest.partition("/")
    if "@" in servers:
        raise UsageError(
            "kafka://… has a user or a password in it: put them into a file for --client, such as "
            "sasl.username=…"
        )
    brokers = [server for server in servers.split(",") if server]
    for server in brokers:
        found = re.fullmatch(r"(?:\[[0-9a-fA-F:]+\]|[^:\s?#]+)(?::([0-9]{1,5}))?", server)
        # The client would take what is left of a larger port behind 65,536.
        if found is None or not 0 < int(found[1] or 1) < 1 << 16:
            raise UsageError(f"kafka://{servers}: {server!r} is no broker; write host:9092")
    if not brokers or not topics:
        raise UsageError("the source kafka://… must be kafka://broker:9092/topic")
    names = _names(topics)
    for name in names:
        if not re.fullmatch(r"[a-zA-Z0-9._-]{1,249}", name):
            raise UsageError(f"{name!r} is no topic of Kafka: letters, digits, '.', '_' and '-'")
    return ",".join(brokers), names


def _names(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(unquote(name) for name in text.split(",") if name))
    if not names:
        raise UsageError("the source names no topic or stream")
    return names


def shown(scheme: str, server: str, names: tuple[str, ...]) -> str:
    """A source's URL to be shown; `server` without credentials."""
    return f"{scheme}://{server}/" + ",".join(quote(name, safe=":") for name in names)
