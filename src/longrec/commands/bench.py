"""Costs measured on the machine at hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longrec.commands.options import Json

if TYPE_CHECKING:
    from longrec.recommender import Recommender

app = typer.Typer(help="Costs measured on the machine at hand.")


@app.callback()
def bench() -> None:
    """Costs measured on the machine at hand."""


@app.command()
def stream(
    run: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN", help="A run's folder instead of random weights.", show_default=False
        ),
    ] = None,
    models: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...", help="Models of random weights; elastic,hydrarec if unset."
        ),
    ] = None,
    items: Annotated[
        int | None, typer.Option(help="Items of their catalog; 3400 if unset.")
    ] = None,
    histories: Annotated[
        str, typer.Option(metavar="N,M,...", help="Events of users at the beginning.")
    ] = "100,10000,1000000",
    durability: Annotated[
        str, typer.Option(metavar="A,B", help="power: synced before it is acknowledged; process.")
    ] = "power,process",
    store: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="redis://host:6379/0 (under keys of its own), or a new folder for LMDB.",
        ),
    ] = None,
    folder: Annotated[
        Path, typer.Option(help="Where temporary stores are made: on the disk to be measured.")
    ] = Path("."),
    clients: Annotated[str, typer.Option(metavar="N,M,...", help="Clients at once.")] = "1,32",
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each cell, of 10 pairs.")] = 100,
    seconds: Annotated[float, typer.Option(help="For each cell of several clients.")] = 5.0,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A .json file for all that was found.")
    ] = None,
    json: Json = False,
) -> None:
    """Time events and recommendations on real stores here, beside reading histories again.

    It takes some minutes of one core and half a gigabyte of disk, and leaves nothing behind.

    Example: [bold]longrec bench stream --models elastic --histories 100,10000[/bold]
    """
    from json import dumps

    from longrec import console
    from longrec.bench.plan import Plan
    from longrec.bench.shown import show
    from longrec.bench.stream import bench_stream
    from longrec.errors import LongrecError, UsageError
    from longrec.files import write_file

    if out is not None and (out.suffix != ".json" or not out.parent.is_dir()):
        raise UsageError(f"{out}: name a .json file in a folder that there is")
    plan = Plan(
        histories=_numbers("histories", histories),
        durabilities=tuple(durability.split(",")),  # type: ignore[arg-type]
        clients=_numbers("clients", clients),
        rounds=rounds,
        seconds=seconds,
    )
    chosen = _chosen(run, models, items)
    try:
        with console.counting("measuring") as progress:
            found = bench_stream(chosen, plan, folder, store, progress)
    except KeyboardInterrupt:
        raise LongrecError("interrupted; nothing is left of the stores") from None
    if out is not None:
        write_file(out, dumps(found, indent=2, allow_nan=False) + "\n")
    if json:
        console.print_json(found["cells"])
    else:
        show(found)
    if found["machine"]["in_memory"]:
        console.say(
            f"warning: measured on {found['machine']['file_system']}, where a sync costs and keeps "
            "nothing: pass --folder on a disk"
        )


def _chosen(run: Path | None, models: str | None, items: int | None) -> list[Recommender]:
    from longrec.bench.plan import random_recommender
    from longrec.errors import UsageError

    if run is not None:
        if models is not None or items is not None:
            raise UsageError("RUN brings its own model and items: leave --models and --items out")
        from longrec.recommender import load

        return [load(run)]
    names = (models or "elastic,hydrarec").split(",")
    return [random_recommender(name, 3400 if items is None else items) for name in names]


def _numbers(name: str, text: str) -> Any:
    from longrec.errors import UsageError

    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{name} is {text!r}; give whole numbers with commas between") from None
