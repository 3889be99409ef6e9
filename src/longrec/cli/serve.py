"""The service."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from longrec.cli.index import Kind
from longrec.cli.options import Durable, Run

if TYPE_CHECKING:
    from longrec.serving.stream.stream import Stream


def serve(
    run: Run,
    store: Annotated[
        str,
        typer.Option(
            metavar="URL",
            help="Where users are kept: lmdb:///folder, sqlite:///file, redis://host/0, rediss://…",
        ),
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8000,
    keys: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="API keys, one per line, read again when it changes; else LONGREC_API_KEYS.",
        ),
    ] = None,
    without_keys: Annotated[
        bool, typer.Option("--without-keys", help="Listen beyond this machine without keys.")
    ] = False,
    durability: Annotated[
        Durable, typer.Option(help="power: on disk before it is answered; process.")
    ] = Durable.power,
    index: Annotated[
        Kind, typer.Option(help="How items are found; auto: by the size of the catalog.")
    ] = Kind.auto,
    max_body: Annotated[int, typer.Option(help="Bytes of a request's body.")] = 1 << 20,
    rate: Annotated[
        float, typer.Option(help="Requests per second of a key, or of an address without keys.")
    ] = 2000.0,
    queue: Annotated[int, typer.Option(help="Events that may wait; more get 503.")] = 2048,
    timeout: Annotated[float, typer.Option(help="Seconds for a request.")] = 10.0,
    log_requests: Annotated[
        bool, typer.Option("--log-requests/--no-log-requests", help="A line for each request.")
    ] = True,
) -> None:
    """Serve fresh recommendations over HTTP; TERM drains and stops, HUP takes RUN's new model.

    Example: [bold]longrec serve run --store lmdb:///var/lib/shop/users[/bold]
    """
    from longrec.core import console
    from longrec.core.errors import UsageError

    try:
        from longrec.serving.http.server import serve as run_server
        from longrec.serving.http.settings import Settings
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the server needs the package {error.name}: pip install 'longrec[serve]'"
        ) from error

    settings = Settings(
        run=run,
        store=store,
        durability=durability.value,
        host=host,
        port=port,
        index=index.value,
        keys=keys,
        without_keys=without_keys,
        max_body=max_body,
        rate=rate,
        queue=queue,
        timeout=timeout,
        log_requests=log_requests,
    )

    def ready(address: str, stream: Stream) -> None:
        recall = f", recall@10 {stream.index.recall:.3f}" if stream.index.recall < 1 else ""
        console.say(stream.engine.statement)
        console.say(f"items: {stream.artifact.catalog.n_items:,}, {stream.index.name}{recall}")
        console.say(f"{address}  (/openapi.json, /metrics; store: {stream.store.url})")

    with console.progress_bar("building the index") as progress:
        run_server(settings, progress, ready)
