"""What a trained model is asked."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from longrec.cli.options import Data, Json, Run


class Part(StrEnum):
    """Which targets to evaluate."""

    test = "test"
    validation = "validation"


class Format(StrEnum):
    """How to write recommendations."""

    table = "table"
    csv = "csv"
    parquet = "parquet"
    json = "json"


def evaluate(
    run: Run,
    data: Data = None,
    split: Annotated[Part, typer.Option(help="Which targets.")] = Part.test,
    protocol: Annotated[
        str | None,
        typer.Option(help="leave-one-out, global-time or prequential; that of training if unset."),
    ] = None,
    json: Json = False,
) -> None:
    """Rank every target among the whole catalog, and keep metrics and ranks in RUN.

    Example: [bold]longrec evaluate run --split test --json[/bold]
    """
    from longrec.cli.tables import metrics_table
    from longrec.core import console
    from longrec.recommender import load
    from longrec.runs.train import evaluate as measure

    recommender = load(run)
    with console.progress_bar("ranking") as progress:
        metrics = measure(recommender, data, split.value, protocol=protocol, progress=progress)
    if json:
        console.print_json(dict(metrics) | {"detail": metrics.to_dict(), "run": str(run)})
    else:
        metrics_table(f"{recommender.name} ({run})", metrics)
    if "warning" in metrics.notes:
        console.say(f"warning: {metrics.notes['warning']}")


def recommend(
    run: Run,
    more: Annotated[
        list[str] | None, typer.Argument(metavar="[ID...]", help="Further ids.", hidden=True)
    ] = None,
    data: Data = None,
    user: Annotated[
        list[str] | None, typer.Option(metavar="ID...", help="Users to recommend to.")
    ] = None,
    history: Annotated[
        list[str] | None, typer.Option(metavar="ITEM...", help="A history, oldest item first.")
    ] = None,
    everybody: Annotated[bool, typer.Option("--all", help="All users of the data.")] = False,
    k: Annotated[int, typer.Option("-k", min=1, help="Items per user.")] = 10,
    seen: Annotated[
        bool, typer.Option("--seen", help="Recommend items of the history, too.")
    ] = False,
    form: Annotated[
        Format | None,
        typer.Option("--format", help="How to write them: by --out's ending, else as a table."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="A .csv, .parquet or .json file instead of standard output."),
    ] = None,
) -> None:
    """Recommend items to users, or for a history that you give.

    Example: [bold]longrec recommend run --user 42 43 -k 5 --format json[/bold]
    """
    from longrec.core import console
    from longrec.core.errors import UsageError
    from longrec.core.files import write_file
    from longrec.core.serialise import serialise
    from longrec.data.histories import open_histories
    from longrec.recommender import load

    if sum((bool(user), bool(history), everybody)) != 1:
        raise UsageError("give one of --user ID..., --history ITEM... and --all")
    if more and everybody:
        raise UsageError(f"--all takes no ids, but {more[0]!r} was given")
    if history and data is not None:
        raise UsageError("--history brings its own events: leave --data out")
    form = _format(form, out)
    recommender = load(run)
    opened = None if data is None else open_histories(data)
    with console.progress_bar("recommending") as progress:
        if history:
            found = recommender.recommend(
                histories=[[*history, *(more or [])]], k=k, exclude_seen=not seen, progress=progress
            )
        else:
            users = None if everybody else [*(user or []), *(more or [])]
            found = recommender.recommend(
                users, opened, k=k, exclude_seen=not seen, progress=progress
            )
    if form is Format.table:
        console.table("recommendations", found.columns, found.rows())
        return
    written = serialise(found, form.value)
    if out is None:
        sys.stdout.buffer.write(written)
        sys.stdout.flush()  # here, where a reader that has stopped is no traceback
    else:
        write_file(out, written)
        console.say(f"{len(found):,} rows in {out}")


def _format(form: Format | None, out: Path | None) -> Format:
    """What to write, known before any work is done."""
    from longrec.core.errors import UsageError

    if out is None:
        if form is Format.parquet and sys.stdout.isatty():
            raise UsageError("Parquet is not for a terminal: pass --out FILE")
        return form or Format.table
    if form is None:
        ending = out.suffix.removeprefix(".").lower()
        form = Format(ending) if ending in {f.value for f in Format} else Format.table
    if form is Format.table:
        raise UsageError(
            f"{out}: a table is for the screen; pass --format csv, parquet or json, or name the "
            "file so"
        )
    if not out.parent.is_dir():
        raise UsageError(f"{out}: there is no folder {out.parent}")
    return form


def models(
    name: Annotated[str | None, typer.Argument(help="Show one model's settings.")] = None,
    json: Json = False,
) -> None:
    """List the models, or the settings of one.

    Example: [bold]longrec models elastic[/bold]
    """
    from longrec.config.describe import describe_model, describe_models
    from longrec.core import console

    if name is None:
        rows = describe_models()
        if json:
            console.print_json(rows)
        else:
            console.table(
                "models",
                ["model", "streaming", "what it is"],
                [[row["model"], row["streaming"], row["summary"]] for row in rows],
            )
        return
    described = describe_model(name)
    if json:
        console.print_json(described)
        return
    console.out.print(described["summary"], markup=False)
    for kind in ("model", "training"):
        rows = described[f"{kind}_settings"]
        console.table(
            f"settings of {'the model' if kind == 'model' else 'training'}",
            ["key", "default", "values"],
            [[row["key"], str(row["default"]), row["type"]] for row in rows],
        )
