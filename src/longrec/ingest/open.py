"""From a URL to a source of messages."""

from __future__ import annotations

from pathlib import Path

from longrec.core.arguments import is_utf8
from longrec.core.errors import UsageError, absent
from longrec.ingest.address import KAFKA, SourceAddress
from longrec.ingest.source import Begin, Begun, Notes, Source

MOST_GROUP = 249
"""Characters of a group's name."""


def open_source(
    address: SourceAddress,
    group: str,
    begin: Begin,
    session: float,
    begun: Begun,
    notes: Notes,
    client: Path | None = None,
) -> Source:
    """The source at an address, which is not connected to yet.

    Parameters
    ----------
    address : SourceAddress
    group : str
        Consumers of one group share the messages; each message is for one of them.
    begin : where a group begins that has read nothing yet.
    session : float
        Seconds after which a consumer that says nothing loses its partitions to the others.
    begun : Begun
        Of the store that messages go to.
    notes : Notes
    client : path or None
        File of librdkafka's settings, KEY=VALUE per line, for TLS and logins.

    Raises
    ------
    UsageError
        When a package is not installed, or the file cannot be used.
    """
    if not 1 <= len(group) <= MOST_GROUP or not group.isprintable() or not is_utf8(group):
        raise UsageError(
            f"--group is {group[:40]!a}; give a name of 1 to {MOST_GROUP} characters that can be "
            "printed"
        )
    try:
        if address.scheme in KAFKA:
            from longrec.ingest.kafka import KafkaSource
            from longrec.ingest.kafka_settings import read_client_file

            settings = {} if client is None else read_client_file(client)
            return KafkaSource(address, group, begin, session, begun, notes, settings)
        if client is not None:
            raise UsageError("--client is for kafka://…; Redis has its settings in the URL")
        from longrec.ingest.redis_streams import RedisStreams

        return RedisStreams(address, group, begin, session, begun, notes)
    except ModuleNotFoundError as error:
        raise absent(f"{address.scheme}://", error, "kafka") from error
