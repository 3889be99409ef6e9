"""Events out of Kafka or Redis Streams into a store of users, until it is stopped."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.progress import TextColumn
from typer import Argument, Option

from longrec.cli.common import AnotherCatalog, Json, Plugin, Run, print_result
from longrec.core import console
from longrec.core.choices import Durability, MessageFormat
from longrec.core.errors import UsageError, absent
from longrec.serving.http import signals

if TYPE_CHECKING:
    from longrec.ingest.consume import Stop

LINE_EVERY = 30.0
"""Seconds between two lines of progress where no person looks on."""


def consume(
    source: Annotated[
        str,
        Argument(
            metavar="SOURCE",
            help="kafka://broker:9092/topic, redis://host:6379/0/stream, rediss://…; several "
            "brokers, topics or streams with commas between.",
            show_default=False,
        ),
    ],
    run: Run,
    store: Annotated[
        str,
        Option(
            metavar="URL", help="Where users are kept: lmdb:///folder, redis://host/0, rediss://…"
        ),
    ],
    group: Annotated[
        str, Option(help="Consumers of one group share the messages between them.")
    ] = "longrec",
    begin: Annotated[
        str,
        Option(
            "--from",
            metavar="earliest|latest|TIME",
            help="Where a new group begins; TIME such as 2026-01-31T12:00 (UTC).",
        ),
    ] = "earliest",
    fields: Annotated[
        list[str] | None,
        Option(
            "--map",
            metavar="NAME=FIELD...",
            help="Where user, item, time, event_id and further columns stand: user=user.id, "
            "item=sku|product, time=ts/1000, type='view', user=@key, time=@time.",
        ),
    ] = None,
    kind: Annotated[
        MessageFormat | None,
        Option(
            "--format",
            help="What messages are; json in Kafka, in Redis the entry's own fields. "
            "avro-registry: with a schema registry's 5 bytes in front.",
        ),
    ] = None,
    schema: Annotated[
        list[str] | None,
        Option(
            metavar="FILE|NUMBER=FILE...",
            help="Avro schema (.avsc) of the messages; of avro-registry each one they name, with "
            "the registry's number.",
        ),
    ] = None,
    field: Annotated[
        str, Option(help="Field of a Redis entry that holds the JSON or Avro.")
    ] = "value",
    client: Annotated[
        Path | None,
        Option(metavar="FILE", help="Settings of librdkafka, KEY=VALUE lines: TLS, logins."),
    ] = None,
    dead_letters: Annotated[
        Path, Option(metavar="FILE", help="Messages that are no events, with reasons, JSON lines.")
    ] = Path("dead-letters.jsonl"),
    dead_limit: Annotated[
        int, Option(min=0, help="End after so many dead letters in a row; 0: never.")
    ] = 1000,
    batch: Annotated[
        int, Option(min=1, max=100_000, help="Messages read and logged together, at most.")
    ] = 500,
    session: Annotated[
        float,
        Option(
            min=0.1,
            max=1800,
            metavar="SECONDS",
            help="A consumer that says nothing for so long loses its partitions to the others.",
        ),
    ] = 30.0,
    patience: Annotated[
        float,
        Option(min=0, metavar="SECONDS", help="How long source or store may be away."),
    ] = 300.0,
    until_end: Annotated[
        bool, Option("--until-end", help="End once all that there is has been read.")
    ] = False,
    metrics_port: Annotated[
        int | None,
        Option(min=1, max=65535, help="Metrics for Prometheus at this port; none without it."),
    ] = None,
    metrics_host: Annotated[str, Option(help="Address of the metrics.")] = "127.0.0.1",
    durability: Annotated[
        Durability, Option(help="power: on disk before positions are kept; process.")
    ] = "power",
    max_ahead: Annotated[
        float, Option(metavar="SECONDS", help="Refuse events so far ahead of this clock.")
    ] = 86_400.0,
    another_catalog: AnotherCatalog = False,
    plugin: Plugin = None,
    json: Json = False,
) -> None:
    """Log events out of Kafka or Redis Streams, each once; TERM finishes what was read and stops.

    Example: [bold]longrec consume kafka://localhost:9092/clicks run --store lmdb://users
    --map user=user.id item=sku time=ts/1000[/bold]
    """
    try:
        from longrec.ingest.consume import Consumer, Limits
        from longrec.ingest.dead_letters import DeadLetters
        from longrec.ingest.telemetry import Telemetry
    except ModuleNotFoundError as error:
        raise absent("consuming", error, "kafka") from error
    from longrec.ingest.address import KAFKA, SourceAddress
    from longrec.ingest.decoding import make_decoder
    from longrec.ingest.mapping import FieldMap
    from longrec.ingest.open import open_source
    from longrec.ingest.source import Begun, Notes, parse_begin

    began = time.monotonic()
    with _told_to_stop() as stop:
        address, first = SourceAddress.parse(source), parse_begin(begin)
        if kind == "fields" and address.scheme in KAFKA:
            raise UsageError("--format fields is for Redis; messages of Kafka are json or avro")
        kind = kind or ("json" if address.scheme in KAFKA else "fields")
        decode, letters = make_decoder(kind, schema or (), field), DeadLetters(dead_letters)
        FieldMap(fields or ())  # a mistake is told before the model is loaded
        notes = Notes(console.say)
        telemetry = Telemetry(notes)
        if metrics_port is not None:
            telemetry.serve(metrics_host, metrics_port)

        from longrec.recommender import load

        stream = load(run).open_stream(
            store,
            durability,
            fresh_counts=None,
            max_ahead=max_ahead,
            another_catalog=another_catalog,
        )
        with stream, _progress() as progress:
            columns = stream.engine.columns
            fields_of = FieldMap(fields or (), () if columns is None else columns.names)
            if fields_of.unread:
                console.say(
                    f"--map: {', '.join(fields_of.unread)}: no field of an event, and no column "
                    "that the model reads; logged as a further column"
                )
            consumer = Consumer(
                stream,
                open_source(address, group, first, session, Begun(stream.store), notes, client),
                decode,
                fields_of,
                letters,
                notes,
                telemetry,
                Limits(batch, patience, dead_limit, until_end),
                stop,
                progress,
            )
            counts = consumer.run()
    facts: dict[str, Any] = {
        "messages": telemetry.messages,
        **counts._asdict(),
        "dead_letters": telemetry.letters,
        "lag": sum(telemetry.lag.values()),
        **{name: notes.counts[name] for name in ("lost", "reset", "split_user", "rebalance")},
        "seconds": round(time.monotonic() - began, 1),
    }
    title = f"{address.scheme}://…/{','.join(address.names)}"
    print_result(json, {"source": title, "store": stream.store.url} | facts, title, facts)


@contextmanager
def _told_to_stop() -> Iterator[Stop]:
    """What TERM and INT tell; told again a second later, the process ends at once."""
    from longrec.ingest.consume import Stop

    stop, since = Stop(), 0.0

    def told(number: int, frame: object) -> None:
        nonlocal since
        if stop.told and time.monotonic() > since + signals.TWICE:
            signals.end()
        since = since or time.monotonic()
        stop.told = True

    before = {one: signal.signal(one, told) for one in (signal.SIGTERM, signal.SIGINT)}
    signals.release()
    try:
        yield stop
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """What shows a line of progress: always the last one to a person, else one now and then."""
    after = time.monotonic() + LINE_EVERY
    with console.live_bar(TextColumn("{task.description}", markup=False)) as bar:
        task = bar.add_task("", total=None)

        def show(line: str) -> None:
            nonlocal after
            if console.is_interactive():
                bar.update(task, description=line)
            elif time.monotonic() >= after:
                after = time.monotonic() + LINE_EVERY
                console.say(line)

        yield show
