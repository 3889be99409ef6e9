"""The command line: `longrec VERB`, the same verbs as the Python API.

Exit status 0: done; 1: the work failed; 2: the call was wrong. Progress goes to standard error,
results to standard output.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="longrec",
    help="Next-item recommendation from very long user histories: from logs to recommendations.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Named public data: what there is, and how to get it.")
app.add_typer(data_app, name="data", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Data = Annotated[
    Path | None,
    typer.Option("--data", help="A histories folder; the run's own training data by default."),
]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.", show_default=False)]


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


@app.callback(invoke_without_command=True)
def top(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; all cores by default.")
    ] = None,
) -> None:
    """Next-item recommendation from very long user histories: from logs to recommendations."""
    if version:
        from importlib.metadata import PackageNotFoundError
        from importlib.metadata import version as version_of

        try:
            typer.echo(f"longrec {version_of('longrec')}")
        except PackageNotFoundError:
            typer.echo("longrec (from its source, not installed)")
        raise typer.Exit
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())
        raise typer.Exit(2)


@app.command()
def prepare(
    log: Annotated[
        list[str],
        typer.Argument(
            metavar="LOG...",
            help="CSV, TSV, Parquet or RecBole .inter: files, a folder, or a glob.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="The histories folder to write.", show_default=False)],
    user: Annotated[str | None, typer.Option(help="Column of user ids.")] = None,
    item: Annotated[str | None, typer.Option(help="Column of item ids.")] = None,
    time: Annotated[str | None, typer.Option(help="Column of times.")] = None,
    order: Annotated[str | None, typer.Option(help="Column that orders a user's events.")] = None,
    row_order: Annotated[
        bool, typer.Option("--row-order", help="The log's rows are in the order of events.")
    ] = False,
    time_unit: Annotated[
        str | None, typer.Option(help="s, ms, us, ns or datetime, instead of detecting it.")
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option("--column", help="A further column to keep; repeatable.")
    ] = None,
    k_core: Annotated[
        int, typer.Option(min=0, help="Drop users and items with fewer events; 0 keeps all.")
    ] = 0,
    dedup: Annotated[
        bool, typer.Option("--dedup", help="Keep only the first event of a user with an item.")
    ] = False,
    min_length: Annotated[int, typer.Option(min=1, help="Drop shorter histories.")] = 1,
    extend: Annotated[
        Path | None,
        typer.Option(metavar="HISTORIES", help="Histories that the log continues: write both."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a histories folder that exists.")
    ] = False,
    json: Json = False,
) -> None:
    """Turn logs into histories: ordered, indexed, memory-mapped.

    Example: [bold]longrec prepare clicks/*.parquet --user uid --item sku --out histories[/bold]
    """
    from longrec import console
    from longrec.data.prepare import prepare as run

    with console.err.status("reading the log"):
        histories = run(
            log[0] if len(log) == 1 else log,
            out,
            k_core=k_core,
            dedup=dedup,
            min_length=min_length,
            extend=extend,
            overwrite=overwrite,
            report=console.say,
            user=user,
            item=item,
            time=time,
            order=order,
            row_order=row_order,
            time_unit=time_unit,
            columns=tuple(column or ()),
        )
    if json:
        from dataclasses import asdict

        console.print_json({"path": str(out)} | asdict(histories.meta))
        return
    lengths = histories.lengths
    console.facts_table(
        str(out),
        {
            "users": f"{histories.n_users:,}",
            "items": f"{histories.n_items:,}",
            "events": f"{histories.n_events:,}",
            "events per user": f"{lengths.mean():.1f} on average, at most {lengths.max():,}",
            "dropped": ", ".join(f"{v:,} {k}" for k, v in histories.meta.dropped.items()) or "0",
        },
    )


@app.command()
def train(
    histories: Annotated[
        Path, typer.Argument(metavar="HISTORIES", help="A histories folder.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="The run's folder.", show_default=False)],
    model: Annotated[
        str | None, typer.Option(help="See `longrec models`; elastic if left out.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting; see `longrec models NAME`."),
    ] = None,
    context: Annotated[
        int | None, typer.Option(min=1, help="Read only the last so many events of a history.")
    ] = None,
    warm_start: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Start from the weights of a run, on newer histories."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")] = "auto",
    json: Json = False,
) -> None:
    """Train a model on histories.

    Example: [bold]longrec train histories --model elastic --out run --set dim=64[/bold]
    """
    import shlex

    from longrec import console
    from longrec.api import train as run
    from longrec.data.histories import open_histories
    from longrec.errors import LongrecError, UsageError
    from longrec.settings import parse_assignments

    values: dict[str, Any] = dict(parse_assignments(settings or []))
    if context is not None:
        if "context" in values:
            raise UsageError("the context is given twice: by --context and by --set")
        values["context"] = context
    opened = open_histories(histories)
    console.say(
        f"{histories}: {opened.n_users:,} users, {opened.n_items:,} items, "
        f"{opened.n_events:,} events"
    )
    try:
        recommender = run(
            opened,
            model,
            out,
            warm_start=warm_start,
            resume=resume,
            device=device,
            progress=True,
            **values,
        )
    except KeyboardInterrupt:
        again = ["longrec", "train", str(histories), "--out", str(out)]
        raise LongrecError(f"interrupted; go on with: {shlex.join(again)} --resume") from None
    ending = recommender.provenance["training"]
    if json:
        warm = {k: v for k, v in recommender.provenance.items() if k == "warm_start"}
        console.print_json({"run": str(out), "model": recommender.name} | ending | warm)
        return
    validation = ", ".join(f"{key} {value:.4f}" for key, value in ending["validation"].items())
    console.facts_table(
        str(out),
        {
            "model": recommender.name,
            "ended": ending["stop"]
            + ("" if ending["converged"] else " (not converged: it was still improving)"),
            "epochs": ending["epochs"],
            "time": console.clock(ending["seconds"]),
            "validation": validation,
            "left out by the context": f"{ending['dropped']:,} events",
        },
    )
    if "warm_start" in recommender.provenance:
        console.gain_table(recommender.provenance["warm_start"])
    console.say(f"next: longrec evaluate {out}")


@app.command()
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
    from longrec import console
    from longrec.api import evaluate as measure
    from longrec.recommender import load

    recommender = load(run)
    with console.counting("ranking") as progress:
        metrics = measure(recommender, data, split.value, protocol=protocol, progress=progress)
    if json:
        console.print_json(dict(metrics) | {"detail": metrics.to_dict(), "run": str(run)})
    else:
        console.metrics_table(f"{recommender.name} ({run})", metrics)
    if "warning" in metrics.notes:
        console.say(f"warning: {metrics.notes['warning']}")


@app.command()
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
    from longrec import console
    from longrec.data.histories import open_histories
    from longrec.errors import UsageError
    from longrec.files import write_file
    from longrec.output import serialise
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
    with console.counting("recommending") as progress:
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
    from longrec.errors import UsageError

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


@app.command()
def models(
    name: Annotated[str | None, typer.Argument(help="Show one model's settings.")] = None,
    json: Json = False,
) -> None:
    """List the models, or the settings of one.

    Example: [bold]longrec models elastic[/bold]
    """
    from longrec import console
    from longrec.catalogue import describe_model, describe_models

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


@data_app.command("list")
def data_list(json: Json = False) -> None:
    """List named public data: size, publisher's address, digest, terms.

    Example: [bold]longrec data list --json[/bold]
    """
    from dataclasses import asdict

    from longrec import console
    from longrec.data.public import list_public

    entries = list_public()
    if json:
        console.print_json([asdict(entry) for entry in entries])
        return
    for entry in entries:
        console.out.print(f"[bold]{entry.name}[/bold]  {entry.title}")
        console.out.print(f"  from   {entry.url}\n  digest {entry.digest or 'none published'}")
        console.out.print(f"  terms  {entry.terms}", markup=False)


@data_app.command("get")
def data_get(
    name: Annotated[str, typer.Argument(help="A name from `longrec data list`.")],
    out: Annotated[Path, typer.Option(help="Folder for the log.")] = Path("data"),
    file: Annotated[
        Path | None, typer.Option(help="The publisher's file, if you have it: nothing is fetched.")
    ] = None,
    accept_terms: Annotated[
        bool, typer.Option("--accept-terms", help="You have read the publisher's terms.")
    ] = False,
    json: Json = False,
) -> None:
    """Fetch public data from its publisher, check its digest, and make it readable.

    Example: [bold]longrec data get ml-1m --accept-terms --out data[/bold]
    """
    from longrec import console
    from longrec.data.public import get_public

    with console.counting(name) as progress:
        path = get_public(
            name,
            out,
            file=file,
            accept_terms=accept_terms,
            progress=lambda done, total: progress(done, total),
            report=console.say,
        )
    if json:
        console.print_json({"name": name, "path": str(path)})
    else:
        console.say(f"next: longrec prepare {path} --out histories/{name}")


@app.command()
def compare(
    histories: Annotated[
        Path, typer.Argument(metavar="HISTORIES", help="A histories folder.", show_default=False)
    ],
    models: Annotated[
        str,
        typer.Option(
            metavar="A,B,...",
            help="Models, or variants NAME:KEY=VALUE:KEY=VALUE, with commas between.",
            show_default=False,
        ),
    ],
    budget: Annotated[
        float,
        typer.Option(metavar="MINUTES", help="Of training, for each run.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="The comparison's folder.", show_default=False)],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting common to all models."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each model.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")] = "auto",
    json: Json = False,
) -> None:
    """Train models under equal budgets, each in its own process, and report what they reach.

    The same command goes on with what was interrupted or failed, and may name more models.

    Example: [bold]longrec compare histories --models elastic,sasrec --budget 20 --out out[/bold]
    """
    import shlex

    from longrec import console
    from longrec.comparison.compare import compare as run
    from longrec.comparison.shown import summary_table
    from longrec.errors import LongrecError
    from longrec.settings import parse_assignments

    common = parse_assignments(settings or [])
    try:
        found = run(
            *(histories, models, budget, out),
            settings=common,
            seeds=seeds,
            device=device,
            progress=True,
        )
    except KeyboardInterrupt:
        again = shlex.join(["longrec", *sys.argv[1:]])
        raise LongrecError(f"interrupted; go on with the same command: {again}") from None
    if json:
        console.print_json(found.to_dict() | {"report": str(found.report)})
    else:
        lead = "unfiltered" if found.metric.startswith("unfiltered") else "seen items filtered"
        console.table(f"{out}: {lead}", *summary_table(found))
        console.out.print(console.plain(found.protocol), markup=False)
        console.say(f"report: {found.report}")
    if found.failures:
        raise LongrecError(
            f"{len(found.failures)} of the runs failed: "
            + "; ".join(f"{f.name} in {f.stage} ({f.error}; see {f.log})" for f in found.failures)
            + ". The same command tries them again."
        )


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for histories, runs and report.")] = Path(
        "demo"
    ),
    users: Annotated[int, typer.Option(min=50, help="Users to simulate.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything.")] = 0,
    json: Json = False,
) -> None:
    """Simulate histories, train ELASTIC and SASRec, compare them with what is attainable.

    Example: [bold]longrec demo --out demo[/bold]
    """
    from longrec.demo import run_demo

    run_demo(out, users=users, seed=seed, as_json=json)


def main() -> None:
    """Entry point: what a user can mend is told in one line, without a traceback."""
    from longrec.errors import LongrecError

    try:
        app()
    except LongrecError as error:
        _fail(str(error), error.exit_status)
    except BrokenPipeError:
        # Whoever read our output has stopped: nothing more to say.
        sys.stderr.close()
        sys.exit(1)
    except (OSError, MemoryError) as error:
        _fail(str(error) or type(error).__name__, 1)
    except RuntimeError as error:
        if "memory" not in str(error):  # torch's own errors for want of it are of this class
            raise
        _fail(f"not enough memory: {str(error).splitlines()[0]}", 1)


def _fail(message: str, status: int) -> None:
    from longrec.console import fail

    fail(message)
    sys.exit(status)


if __name__ == "__main__":
    main()
