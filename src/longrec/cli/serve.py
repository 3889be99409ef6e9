"""A trained model made ready for others: its index, an export, and the service over HTTP."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Context, Option

from longrec.cli.common import AnotherCatalog, Json, Overwrite, Plugin, Run, print_result
from longrec.core import console
from longrec.core.choices import Durability, IndexKind
from longrec.core.errors import absent
from longrec.core.threads import used

if TYPE_CHECKING:
    from longrec.serving.http.store_work import Need
    from longrec.serving.stream.stream import Stream


def index(
    run: Run,
    kind: Annotated[
        IndexKind, Option(help="auto: approximate in catalogs so large that it is ahead.")
    ] = "auto",
    plugin: Plugin = None,
    json: Json = False,
) -> None:
    """Build the index that `longrec serve` takes, keep it in RUN, and measure its recall.

    Example: [bold]longrec index run --kind approximate[/bold]
    """
    from longrec.recommender import load
    from longrec.retrieval.index_cache import open_index

    recommender = load(run)
    with console.progress_bar("building the index") as progress:
        found = open_index(recommender, kind, progress)
    facts = {
        "index": found.index.name,
        "items": found.index.n_items,
        "recall_at_10": found.index.recall,
        **found.facts,
    }
    print_result(json, {"run": str(run)} | facts, str(run), facts)


def export(
    run: Run,
    out: Annotated[
        Path,
        Option(
            metavar="FOLDER",
            help="A new or empty folder.",
            show_default=False,
        ),
    ],
    overwrite: Overwrite = False,
    plugin: Plugin = None,
    json: Json = False,
) -> None:
    """Write item vectors or counts, and the model as ONNX, to serve without PyTorch; checked.

    Example: [bold]longrec export run --out run-onnx[/bold]
    """
    from longrec.export.folder import export as write
    from longrec.recommender import load

    with console.progress_bar("exporting") as progress:
        manifest = write(load(run), out, progress, overwrite=overwrite)
    if json:
        console.print_json({"path": str(out)} | manifest)
        return
    files = sorted(out.iterdir())
    sizes = [[file.name, f"{file.stat().st_size:,}"] for file in files]
    console.table(str(out), ["file", "bytes"], sizes)
    parity = manifest["parity"]
    who = "ONNX Runtime gives PyTorch's" if manifest["graphs"] else "NumPy gives the model's"
    console.print_text(
        f"{who} scores to {parity['of_spread']:.1g} of their standard "
        f"deviation ({parity['events']:,} events of {parity['histories']} random histories; "
        f"{parity['allowed_of_spread']:.1g} is allowed)."
    )


def push(
    run: Run,
    url: Annotated[
        str,
        Argument(
            metavar="URL",
            help="qdrant://host:6333/COLLECTION, milvus://host:19530/COLLECTION, "
            "qdrant:///folder/COLLECTION or milvus:///folder/NAME.db/COLLECTION (no server), or "
            "postgresql://user@host/database?table=NAME.",
            show_default=False,
        ),
    ],
    plugin: Plugin = None,
    json: Json = False,
) -> None:
    """Bring item vectors into a vector store, in place of the last ones, and measure its answers.

    Example: [bold]longrec push run qdrant://localhost:6333/items[/bold]
    """
    from longrec.export.push import push as bring
    from longrec.recommender import load

    with console.progress_bar("pushing") as progress:
        pushed = bring(load(run), url, progress)
    facts = {
        "vectors": f"{pushed.items:,} of {pushed.dim} numbers",
        "of model": pushed.model,
        "recall@10": f"{pushed.recall:.3f} (against exact search; {pushed.users})",
        "one search": f"{pushed.milliseconds:.1f} ms (median)",
    }
    print_result(json, pushed._asdict(), pushed.store, facts)


def serve(
    ctx: Context,
    run: Run,
    store: Annotated[
        str,
        Option(
            metavar="URL", help="Where users are kept: lmdb:///folder, redis://host/0, rediss://…"
        ),
    ],
    data: Annotated[
        Path | None,
        Option(
            metavar="HISTORIES",
            help="Fill the store from these histories while it serves, once; a killed one goes on.",
        ),
    ] = None,
    host: Annotated[str, Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, Option(min=0, max=65535, help="0: any free one.")] = 8000,
    keys: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help="API keys, one per line, read again when it changes; else LONGREC_API_KEYS.",
        ),
    ] = None,
    without_keys: Annotated[
        bool, Option("--without-keys", help="Listen beyond this machine without keys.")
    ] = False,
    durability: Annotated[
        Durability, Option(help="power: on disk before it is answered; process.")
    ] = "power",
    index: Annotated[
        IndexKind, Option(help="How items are found; auto: by the size of the catalog.")
    ] = "auto",
    max_body: Annotated[int, Option(help="Bytes of a request's body.")] = 1 << 20,
    rate: Annotated[
        float, Option(help="Requests per second of a key, or of an address without keys.")
    ] = 2000.0,
    queue: Annotated[int, Option(help="Events that may wait; more get 503.")] = 2048,
    timeout: Annotated[float, Option(help="Seconds for a request.")] = 10.0,
    log_requests: Annotated[
        bool, Option("--log-requests/--no-log-requests", help="A line for each request.")
    ] = True,
    fresh_counts: Annotated[
        float,
        Option(
            min=0,
            metavar="SECONDS",
            help="Count what follows what in the store's log so often, where RUN has transitions; "
            "0: never.",
        ),
    ] = 60.0,
    max_ahead: Annotated[
        float,
        Option(metavar="SECONDS", help="Refuse events that are so far ahead of this clock."),
    ] = 86_400.0,
    another_catalog: AnotherCatalog = False,
    plugin: Plugin = None,
) -> None:
    """Serve fresh recommendations over HTTP; TERM drains and stops, HUP takes RUN's new model.

    Example: [bold]longrec serve run --store lmdb:///var/lib/shop/users --data histories[/bold]
    """
    try:
        from longrec.serving.http.server import serve as run_server
        from longrec.serving.http.settings import Settings
    except ModuleNotFoundError as error:
        raise absent("the server", error, "serve") from error

    from longrec.artifact.policy import seen_items_line

    settings = Settings(
        run=run,
        store=store,
        durability=durability,
        host=host,
        port=port,
        index=index,
        keys=keys,
        without_keys=without_keys,
        max_body=max_body,
        rate=rate,
        queue=queue,
        timeout=timeout,
        log_requests=log_requests,
        data=data,
        fresh_counts=fresh_counts or None,
        max_ahead=max_ahead,
        another_catalog=another_catalog,
    )

    def ready(address: str, stream: Stream, need: Need | None) -> None:
        recall = f", recall@10 {stream.index.recall:.3f}" if stream.index.recall < 1 else ""
        console.say(str(used()))
        console.say(stream.engine.statement)
        console.say(seen_items_line(stream.artifact))
        console.say(f"items: {stream.artifact.catalog.n_items:,}, {stream.index.name}{recall}")
        if stream.fresh is not None:
            console.say(stream.fresh.statement)
        for line in _about_store(stream, store, data, need):
            console.say(line)
        console.say(f"{address}  (/docs, /metrics; store: {stream.store.url})")

    with console.progress_bar("building the index") as progress:
        run_server(settings, ctx.obj, progress, ready)


def _about_store(stream: Stream, given: str, data: Path | None, need: Need | None) -> Iterator[str]:
    """What the store holds and lacks, where that is not as one expects."""
    from longrec.data.histories import open_histories
    from longrec.serving.http.store_work import LEFT_OUT
    from longrec.serving.stream.imports import is_half_imported, left_out

    if need == "seeding":
        yield (
            f"filling the store from {data} meanwhile: who is not in it yet gets popular items "
            "(policy cold)"
        )
    elif need == "new items":
        yield "items are new in the catalog: events of them that were skipped are applied meanwhile"
    elif need == "new model":
        yield (
            "the store served another model: records of this one are made meanwhile, and at once "
            "of whoever is asked for"
        )
    elif data is not None:
        yield f"{data} was brought into the store before: nothing is imported again"
        if number := left_out(stream.store.meta(), open_histories(data)):
            yield f"of it {number:,} {LEFT_OUT}"
    if data is None:
        begin = ""
        if is_half_imported(stream.store.meta()):
            begin = "filling the store from histories has not ended. To go on, stop and run: "
        elif not stream.store.users(b"", 1):
            begin = (
                "the store is empty: every user is a stranger and gets popular items. To fill it, "
                "stop and run: "
            )
        if begin:
            known = stream.artifact.provenance.get("data", {}).get("path")
            histories = known if known and Path(known).is_dir() else "HISTORIES"
            # As it was called, but for a password in the store's URL.
            shown = stream.store.url if "@" in given else given
            words = [word.replace(given, shown) for word in sys.argv[1:]]
            yield begin + shlex.join(["longrec", *words, "--data", histories])
