"""From logs to histories, and named public data."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Argument, Option

from longrec.cli.common import Address, Engine, Json, cluster_of, print_result
from longrec.cli.lists import words
from longrec.core import console
from longrec.core.format import parse_bytes

app = typer.Typer(help="Named public data: what there is, and how to get it.")


def prepare(
    log: Annotated[
        list[str],
        Argument(
            metavar="LOG...",
            help="CSV, TSV, JSON lines, Parquet or RecBole .inter, packed or not: files, a folder, "
            "a glob, or an address (s3://…).",
            show_default=False,
        ),
    ],
    out: Annotated[Path, Option(help="The histories folder to write.", show_default=False)],
    user: Annotated[str | None, Option(help="Column of user ids.")] = None,
    item: Annotated[str | None, Option(help="Column of item ids.")] = None,
    time: Annotated[str | None, Option(help="Column of times.")] = None,
    order: Annotated[str | None, Option(help="Column that orders a user's events.")] = None,
    row_order: Annotated[
        bool, Option("--row-order", help="The log's rows are in the order of events.")
    ] = False,
    time_unit: Annotated[
        str | None, Option(help="s, ms, us, ns or datetime, instead of detecting it.")
    ] = None,
    type_: Annotated[
        str | None, Option("--type", help="Column of the events' types: view, buy, …")
    ] = None,
    column: Annotated[
        list[str] | None, Option("--keep", metavar="NAME...", help="Further columns to keep.")
    ] = None,
    columns: Annotated[
        list[str] | None,
        Option(metavar="A,B,...", help="Names of all columns of text files without a header line."),
    ] = None,
    time_format: Annotated[
        str | None, Option(metavar="FORMAT", help="How times are written: %d/%m/%Y %H:%M, …")
    ] = None,
    encoding: Annotated[str | None, Option(help="Of text files: latin-1, …; UTF-8 else.")] = None,
    skip_bad_rows: Annotated[
        bool,
        Option(
            "--skip-bad-rows", help="Leave rows out that cannot be used, and say which and why."
        ),
    ] = False,
    escape_formulas: Annotated[
        bool,
        Option(
            "--escape-formulas",
            help="In bad_rows.csv, put ' before texts that a spreadsheet would take for formulas.",
        ),
    ] = False,
    items: Annotated[
        Path | None,
        Option(metavar="FILE", help="A table of the items, with titles for instance, to keep."),
    ] = None,
    k_core: Annotated[
        int, Option(min=0, help="Drop users and items with fewer events; 0 keeps all.")
    ] = 0,
    dedup: Annotated[
        Literal["same-item", "same-time"] | None,
        Option(help="Keep only the first event of a user with an item, or with it at one time."),
    ] = None,
    min_length: Annotated[int, Option(min=1, help="Drop shorter histories.")] = 1,
    extend: Annotated[
        Path | None,
        Option(metavar="HISTORIES", help="Histories that the log continues: write both."),
    ] = None,
    memory: Annotated[
        str | None,
        Option(metavar="BYTES", help="Most memory to take: 8GiB, 500MB; else half of the free."),
    ] = None,
    engine: Engine = None,
    address: Address = None,
    overwrite: Annotated[
        bool, Option("--overwrite", help="Replace a histories folder that exists.")
    ] = False,
    json: Json = False,
) -> None:
    """Turn logs into histories: ordered, indexed, memory-mapped.

    Example: [bold]longrec prepare clicks/*.parquet --user uid --item sku --out histories[/bold]
    """
    from dataclasses import asdict

    from longrec.data.prepare import prepare as run

    most = None if memory is None else parse_bytes("--memory", memory)
    with cluster_of(engine, address) as cluster, console.progress_bar("reading the log") as bar:
        workers = None
        if cluster is not None:
            from longrec.cluster.prepare import LogWorkers

            workers = LogWorkers(cluster, most)
        histories = run(
            log[0] if len(log) == 1 else log,
            out,
            k_core=k_core,
            dedup=dedup == "same-item" or dedup or False,
            min_length=min_length,
            extend=extend,
            overwrite=overwrite,
            report=console.say,
            items=items,
            memory=most,
            workers=workers,
            progress=lambda words, share: bar(share, 1.0, words),
            user=user,
            item=item,
            time=time,
            order=order,
            row_order=row_order,
            time_unit=time_unit,
            type=type_,
            columns=tuple(column or ()),
            header=words(columns),
            time_format=time_format,
            encoding=encoding,
            skip_bad_rows=skip_bad_rows,
            escape_formulas=escape_formulas,
        )
    lengths = histories.lengths
    dropped = ", ".join(f"{count:,} {what}" for what, count in histories.meta.dropped.items())
    if histories.extra:
        console.say(_readers(histories.columns))
    print_result(
        json,
        {"path": str(out)} | asdict(histories.meta),
        str(out),
        {
            "users": histories.n_users,
            "items": histories.n_items,
            "events": histories.n_events,
            "events per user": f"{lengths.mean():.1f} on average, at most {lengths.max():,}",
            "dropped": dropped or "0",
        },
    )


def _readers(columns: Iterable[str]) -> str:
    """Which models read the further columns that are kept."""
    from longrec.models import MODELS, build_model

    lines = []
    for column in columns:
        names = []
        for name, cls in MODELS.items():
            if column in build_model(name, cls.config_class(), 1).reads_columns:
                names.append(name)
            elif column in cls.columns_by_setting:
                names.append(f"{name} with --set {cls.columns_by_setting[column]}")
        told = f"read by {', '.join(names)}" if names else "no model here reads it"
        lines.append(f"  column {column}: {told}")
    return "\n".join(lines)


@app.command("list")
def data_list(json: Json = False) -> None:
    """List named public data: size, publisher's address, digest, terms.

    Example: [bold]longrec data list --json[/bold]
    """
    from dataclasses import asdict

    from longrec.data.public import PUBLIC

    entries = list(PUBLIC.values())
    if json:
        console.print_json([asdict(entry) for entry in entries])
        return
    for entry in entries:
        console.out.print(f"[bold]{entry.name}[/bold]  {entry.title}")
        console.out.print(f"  from   {entry.url}\n  digest {entry.digest or 'none published'}")
        console.out.print(f"  terms  {entry.terms}", markup=False)


@app.command("get")
def data_get(
    name: Annotated[str, Argument(help="A name from `longrec data list`.")],
    out: Annotated[Path, Option(help="Folder for the log.")] = Path("data"),
    file: Annotated[
        Path | None, Option(help="The publisher's file, if you have it: nothing is fetched.")
    ] = None,
    accept_terms: Annotated[
        bool, Option("--accept-terms", help="You have read the publisher's terms.")
    ] = False,
    json: Json = False,
) -> None:
    """Fetch public data from its publisher, check its digest, and make it readable.

    Example: [bold]longrec data get ml-1m --accept-terms --out data[/bold]
    """
    from longrec.data.public import get_public

    with console.progress_bar(name) as progress:
        path = get_public(
            name,
            out,
            file=file,
            accept_terms=accept_terms,
            progress=progress,
            report=console.say,
        )
    if json:
        console.print_json({"name": name, "path": str(path)})
    else:
        console.say(f"next: longrec prepare {path} --out histories/{name}")
