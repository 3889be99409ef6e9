"""Costs measured on the machine at hand."""

from __future__ import annotations

from collections.abc import Sequence
from json import dumps
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from longrec.cli.common import Json, Plugin, resumable
from longrec.cli.lists import numbers, words
from longrec.core import console
from longrec.core.errors import UsageError
from longrec.core.files import is_free, write_file

T = TypeVar("T")
app = typer.Typer(help="Costs measured on the machine at hand.")

CATALOGS = "3400,100000,1000000"


MODELS = "elastic,hydrarec"
HISTORIES = "100,10000,1000000"
TRANSPORTS = "python,http,http-one"
DURABILITIES = "power,process"
LOGS = "near,far,beauty"


def _list_option(metavar: str, text: str, otherwise: str = "") -> Any:
    """An option of several values, and those by default."""
    shown = otherwise.replace(",", " ") or False
    return typer.Option(metavar=metavar, help=text, show_default=shown)


Models = Annotated[list[str] | None, _list_option("NAME...", "Models of random weights.", MODELS)]
Lengths = Annotated[
    list[str] | None, _list_option("N...", "Events of users at the beginning.", HISTORIES)
]
Durabilities = Annotated[
    list[str] | None,
    _list_option("NAME...", "power: synced before it is acknowledged; process.", DURABILITIES),
]
Folder = Annotated[
    Path, typer.Option(help="Where temporary stores are made: on the disk to be measured.")
]
Rounds = Annotated[int, typer.Option(min=1, help="Samples of each cell, of 10 pairs.")]
Seconds = Annotated[float, typer.Option(help="For each cell of several clients.")]
Out = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A .json file for all that was found.")
]


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
    models: Models = None,
    items: Annotated[
        int | None, typer.Option(help="Items of their catalog; 3400 if unset.")
    ] = None,
    histories: Lengths = None,
    durability: Durabilities = None,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="redis://host:6379/0 (under keys of its own), or a new folder for LMDB.",
        ),
    ] = None,
    folder: Folder = Path("."),
    clients: Annotated[list[str] | None, _list_option("N...", "Clients at once.", "1,32")] = None,
    rounds: Rounds = 100,
    seconds: Seconds = 5.0,
    out: Out = None,
    plugin: Plugin = None,
    json: Json = False,
) -> None:
    """Time events and recommendations on real stores here, beside reading histories again.

    It takes some minutes of one core and half a gigabyte of disk, and leaves nothing behind.

    Example: [bold]longrec bench stream --models elastic --histories 100,10000[/bold]
    """
    plan = {
        "histories": numbers("--histories", histories, HISTORIES),
        "transports": ("python",),
        "durabilities": tuple(words(durability, DURABILITIES)),
        "clients": numbers("--clients", clients, "1,32"),
        "rounds": rounds,
        "seconds": seconds,
    }
    sizes = None if items is None else (items,)
    chosen = ([] if run is None else [run], models, sizes, (3400,), "--items")
    _bench_serving(plan, chosen, folder, store, out, json)


@app.command()
def serve(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUN",
            help="Folders of runs instead of random weights, each with its own catalog.",
            show_default=False,
        ),
    ] = None,
    models: Models = None,
    catalogs: Annotated[
        list[str] | None, _list_option("N...", "Items of their catalogs.", CATALOGS)
    ] = None,
    histories: Lengths = None,
    transports: Annotated[
        list[str] | None,
        _list_option(
            "NAME...",
            "python: in this process; http: longrec serve, two requests for a pair; http-one: one.",
            TRANSPORTS,
        ),
    ] = None,
    durability: Durabilities = None,
    folder: Folder = Path("."),
    clients: Annotated[list[str] | None, _list_option("N...", "Clients at once.", "1,8")] = None,
    rounds: Rounds = 80,
    seconds: Seconds = 2.0,
    attack: Annotated[
        bool,
        typer.Option(
            "--attack",
            help="Time one client beside hostile ones of each kind instead, for 9 seconds each.",
        ),
    ] = False,
    kinds: Annotated[
        list[str] | None,
        _list_option("NAME...", "With --attack: kinds of hostile clients, by name.", "all"),
    ] = None,
    mixed: Annotated[
        int,
        typer.Option(
            min=0,
            help="With --attack: requests drawn at random, around which memory is measured.",
        ),
    ] = 30_000,
    out: Out = None,
    plugin: Plugin = None,
    json: Json = False,
) -> None:
    """Time events and recommendations as they are served, by catalog, and hold them against goals.

    Clients and servers share this machine. It takes a quarter of an hour, and some gigabytes of
    memory and of disk, and leaves nothing behind.

    Example: [bold]longrec bench serve run --transports http --histories 100,10000[/bold]
    """
    if attack:
        _bench_attack(runs or [], models, catalogs, kinds, mixed, folder, out, json)
        return
    plan = {
        "histories": numbers("--histories", histories, HISTORIES),
        "transports": tuple(words(transports, TRANSPORTS)),
        "durabilities": tuple(words(durability, DURABILITIES)),
        "clients": numbers("--clients", clients, "1,8"),
        "rounds": rounds,
        "seconds": seconds,
    }
    sizes = numbers("--catalogs", catalogs) if catalogs else None
    chosen = (runs or [], models, sizes, numbers("--catalogs", None, CATALOGS), "--catalogs")
    _bench_serving(plan, chosen, folder, None, out, json)


def _bench_attack(
    runs: list[Path],
    models: list[str] | None,
    catalogs: list[str] | None,
    kinds: list[str] | None,
    mixed: int,
    folder: Path,
    out: Path | None,
    json: bool,
) -> None:
    """Measure one recommender, a run's or one of random weights, beside hostile clients."""
    from longrec.recommender import load
    from longrec_bench.serving.attack import AttackPlan, bench_attack
    from longrec_bench.serving.hostile import KINDS
    from longrec_bench.serving.users import random_recommender
    from longrec_bench.tables import print_result

    _check_out(out)
    [name] = _one("--models", words(models, "elastic"))
    [items] = _one("--catalogs", numbers("--catalogs", catalogs, "3400"))
    recommender = load(_one("RUN", runs)[0]) if runs else random_recommender(name, items)
    plan = AttackPlan(kinds=tuple(kinds or KINDS), mixed=mixed)
    left = "begin again: nothing is left of the store"
    with resumable(left), console.progress_bar("attacking") as progress:
        found = bench_attack(recommender, plan, folder, progress)
    if out is not None:
        write_file(out, dumps(found, indent=2, allow_nan=False) + "\n")
    print_result(found, json)


def _one(name: str, values: Sequence[T]) -> Sequence[T]:
    """One value, as an attack takes it."""
    if len(values) != 1:
        raise UsageError(f"{name} has {len(values)} values; with --attack give one")
    return values


def _check_out(out: Path | None) -> None:
    if out is not None and (out.suffix != ".json" or not out.parent.is_dir()):
        raise UsageError(f"{out}: name a .json file in a folder that there is")


def _bench_serving(
    plan: dict[str, Any],
    chosen: tuple[list[Path], list[str] | None, Sequence[int] | None, Sequence[int], str],
    folder: Path,
    store: str | None,
    out: Path | None,
    json: bool,
) -> None:
    """Measure runs, or models of random weights over catalogs of so many items, an option's."""
    from longrec.recommender import load
    from longrec_bench.plan import ServingPlan
    from longrec_bench.serving.bench import bench_serving
    from longrec_bench.serving.users import random_recommender
    from longrec_bench.tables import print_result

    _check_out(out)
    checked = ServingPlan(**plan)
    runs, models, sizes, usual, option = chosen
    if runs and (models or sizes is not None):
        raise UsageError(f"RUN brings its own model and items: leave --models and {option} out")
    recommenders = [load(run) for run in runs] or [
        random_recommender(name, size) for size in sizes or usual for name in words(models, MODELS)
    ]
    left = "begin again: nothing is left of the stores"
    with resumable(left), console.progress_bar("measuring") as progress:
        found = bench_serving(recommenders, checked, folder, store, progress)
    if out is not None:
        write_file(out, dumps(found, indent=2, allow_nan=False) + "\n")
    print_result(found, json)
    if found["machine"]["in_memory"]:
        console.say(
            f"warning: measured on {found['machine']['file_system']}, where a sync costs and keeps "
            "nothing: pass --folder on a disk"
        )


@app.command()
def cost(
    models: Annotated[
        list[str] | None, _list_option("NAME...", "Whole models, or all, or none.")
    ] = None,
    mixers: Annotated[
        list[str] | None, _list_option("NAME...", "Mixers alone, or all, or none.")
    ] = None,
    lengths: Annotated[
        list[str] | None, _list_option("N...", "Events of a history; 128 to 1048576 if unset.")
    ] = None,
    slots: Annotated[
        list[str] | None, _list_option("N...", "Sizes of memory banks, or none.")
    ] = None,
    catalogs: Annotated[
        list[str] | None, _list_option("N...", "Items that losses are over, or none.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="Histories per pass; as many as have 4096 events if unset.")
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads that compute, pinned to cores.")] = 1,
    rounds: Annotated[int, typer.Option(help="Samples of each cell, a process each.")] = 3,
    cap: Annotated[
        float, typer.Option(help="Seconds of a pass; what would take longer is skipped.")
    ] = 20.0,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="A new folder for tables, cells.csv and plots."),
    ] = None,
    plugin: Plugin = None,
    json: Json = False,
) -> None:
    """Time mixers, whole models, memory banks and losses, and take their peak memory.

    Each cell has a process of its own for each sample. What is named alone is measured; if nothing
    is, all are, which takes hours.

    Example: [bold]longrec bench cost --models elastic,sasrec,free --lengths 512,4096[/bold]
    """
    from longrec_bench.cost.bench import bench_cost, write_folder
    from longrec_bench.plan import LENGTHS, CostPlan
    from longrec_bench.tables import print_result

    if out is not None and not is_free(out):
        raise UsageError(f"out is {out}, which is there already: name a new or an empty folder")
    named = {"models": models, "mixers": mixers, "slots": slots, "catalogs": catalogs}
    chosen: dict[str, Any] = {}
    if any(named.values()):  # and nothing else
        for name, given in named.items():
            if not given or given == ["none"]:
                chosen[name] = ()
            elif given == ["all"] and name in ("models", "mixers"):
                chosen[name] = None
            elif name in ("models", "mixers"):
                chosen[name] = tuple(words(given))
            else:
                chosen[name] = numbers(f"--{name}", given)
    sizes = numbers("--lengths", lengths) if lengths else LENGTHS
    plan = CostPlan(**chosen, lengths=sizes, batch=batch, threads=threads, cap=cap, rounds=rounds)
    with (
        resumable("begin again: nothing was written"),
        console.progress_bar("measuring") as progress,
    ):
        found = bench_cost(plan, progress)
    if out is not None:
        write_folder(out, found)
    print_result(found, json)
    share = found["machine"]["processor_share"]
    if threads == 1 and share is not None and share < 0.9:
        console.say(
            f"warning: in {1 - share:.0%} of their time the passes did not have the core, so that "
            "something else wanted it: measure again on an idle machine"
        )
    if json and found["skipped"]:
        console.say(f"{len(found['skipped'])} cells were not measured; --out tells why")


@app.command()
def zoo(
    work: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="For histories, runs and ranks, outside of a checkout.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="For cells and the report.", show_default=False)
    ],
    logs: Annotated[
        list[str] | None,
        _list_option(
            "NAME...",
            "near, far, beauty, ml1m, foodcom, globo, or NAME=FOLDER with histories.",
            LOGS,
        ),
    ] = None,
    models: Annotated[
        list[str] | None, _list_option("NAME...", "Of the registry; all if unset.")
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="own: our defaults; paper: of models that have a paper's settings.")
    ] = "own",
    minutes: Annotated[float, typer.Option(help="Of training at most, for each model.")] = 4.0,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each model.")] = 1,
    jobs: Annotated[int, typer.Option(min=1, help="Processes at once, of one thread each.")] = 1,
    data: Annotated[Path, typer.Option(help="Folder of the public logs' files.")] = Path("data"),
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE...", help="Settings common to all models."),
    ] = None,
    plugin: Plugin = None,
    json: Json = False,
) -> None:
    """Train every registered model on the same logs, and write a table of their accuracy.

    The same command goes on with what was interrupted or failed, and skips what is finished.

    Example: [bold]longrec bench zoo --work /tmp/zoo --out benchmarks/zoo --jobs 2[/bold]
    """
    from longrec.core.choices import Recipe, check_choice
    from longrec.core.errors import LongrecError
    from longrec.models import MODELS as REGISTERED
    from longrec_bench.zoo.bench import bench_zoo
    from longrec_bench.zoo.cells import read_cells
    from longrec_bench.zoo.run import ZooPlan

    names = words(models) if models else sorted(REGISTERED)
    check_choice("recipe", recipe, Recipe)
    plan = ZooPlan(names, recipe, minutes, seeds, jobs, tuple(settings or ()))  # type: ignore[arg-type]
    with resumable("the same command goes on"):
        failed = bench_zoo(plan, words(logs, LOGS), work.resolve(), data, out)
    if json:
        console.print_json({"out": str(out), "cells": read_cells(out), "failed": failed})
    if failed:
        raise LongrecError(
            f"{len(failed)} cells have no number: {'; '.join(failed)}. The same command tries them "
            "again."
        )
