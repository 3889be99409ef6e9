"""From histories to a trained model, and the models that there are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from longrec.cli.common import (
    Address,
    Config,
    Data,
    Device,
    Engine,
    Epochs,
    Histories,
    Json,
    Number,
    Overwrite,
    Plugin,
    Run,
    Settings,
    plugin_words,
    settings_of_call,
)
from longrec.cli.completion import complete_model
from longrec.cli.training_result import print_training
from longrec.core import console
from longrec.core.choices import Recipe
from longrec.core.errors import UsageError
from longrec.core.format import number
from longrec.core.threads import used


def train(
    histories: Histories,
    out: Annotated[Path, Option(help="The run's folder.", show_default=False)],
    model: Annotated[
        str | None,
        Option(
            help="See `longrec models`; chosen for the log if left out.",
            autocompletion=complete_model,
        ),
    ] = None,
    settings: Settings = None,
    config: Config = None,
    epochs: Epochs = None,
    minutes: Annotated[
        float | None, Option(help="Most minutes of training; the setting max_minutes.")
    ] = None,
    seed: Annotated[
        int | None, Option(min=0, help="Of everything drawn at random; the setting seed.")
    ] = None,
    recipe: Annotated[
        Recipe | None,
        Option(
            help="What is not given: our defaults, what the model's paper has, or what suits the "
            "log and --minutes, the model too. Left out: own with --model, auto without.",
            show_default=False,
        ),
    ] = None,
    context: Annotated[
        int | None, Option(min=1, help="Train on the last so many events of each history alone.")
    ] = None,
    warm_start: Annotated[
        Path | None,
        Option(metavar="RUN", help="Start from the weights of a run, on newer histories."),
    ] = None,
    final: Annotated[
        bool,
        Option(
            "--final",
            help="Train for service: measure a run, which stays in OUT/measured, then refit it on "
            "all events.",
        ),
    ] = False,
    resume: Annotated[
        bool,
        Option(
            "--resume",
            help="Go on with a run that was interrupted, or with more epochs or minutes.",
        ),
    ] = False,
    overwrite: Overwrite = False,
    device: Device = "auto",
    processes: Number = 1,
    engine: Engine = None,
    address: Address = None,
    plugin: Plugin = None,
    json: Json = False,
) -> None:
    """Train a model on histories.

    Example: [bold]longrec train histories --minutes 15 --out run[/bold]
    """
    from inspect import signature

    from longrec.cli.processes import trained_by
    from longrec.data.histories import open_histories
    from longrec.runs.train import train as run

    plugins = plugin_words(plugin)
    values = settings_of_call(
        settings, max_epochs=epochs, max_minutes=minutes, seed=seed, context=context
    )
    for key in values.keys() & signature(run).parameters.keys():
        raise UsageError(f"{key} is no setting; it has an option of its own, see --help")

    def call() -> dict[str, Any]:
        data = open_histories(histories)
        console.say(
            f"{histories}: {data.n_users:,} users, {data.n_items:,} items, {data.n_events:,} events"
        )
        if engine is None:
            console.say(str(used()))
        return {
            "histories": data if engine is None else histories,
            "model": model,
            "out": out,
            "warm_start": warm_start,
            "final": final,
            "recipe": recipe,
            "config": config,
            "resume": resume,
            "overwrite": overwrite,
            "device": device,
            **values,
        }

    words = ["longrec", "train", str(histories), "--out", str(out), *plugins]
    who = processes, engine, address
    recommender = trained_by(*who, run, call, words, out, plugin or ())
    if recommender is not None:
        print_training(recommender, out, plugins, json)


def refit(
    run: Run,
    out: Annotated[Path, Option(help="The folder of the final run.", show_default=False)],
    data: Data = None,
    resume: Annotated[bool, Option("--resume", help="Go on with an interrupted refit.")] = False,
    overwrite: Overwrite = False,
    device: Device = "auto",
    processes: Number = 1,
    engine: Engine = None,
    address: Address = None,
    plugin: Plugin = None,
    json: Json = False,
) -> None:
    """Train a measured run anew on all events, validation and test included, to be served.

    Example: [bold]longrec refit run --out final[/bold]
    """
    from longrec.cli.processes import trained_by
    from longrec.recommender import load
    from longrec.runs.refit import refit as train_on_all

    plugins = plugin_words(plugin)
    on = [] if data is None else ["--data", str(data)]

    def call() -> dict[str, Any]:
        measured = load(run)
        if engine is None:
            console.say(str(used()))
        return {
            "run": measured if engine is None else run,
            "out": out,
            "histories": data,
            "resume": resume,
            "overwrite": overwrite,
            "device": device,
        }

    words = ["longrec", "refit", str(run), "--out", str(out), *on, *plugins]
    who = processes, engine, address
    final = trained_by(*who, train_on_all, call, words, out, plugin or ())
    if final is not None:
        print_training(final, out, plugins, json)


def models(
    name: Annotated[
        str | None, Argument(help="Show one model's settings.", autocompletion=complete_model)
    ] = None,
    plugin: Plugin = None,
    json: Json = False,
) -> None:
    """List the models, or the settings of one.

    Example: [bold]longrec models elastic[/bold]
    """
    from longrec.core.registry import broken_packages
    from longrec.runs.describe import describe_model, describe_models

    rows = describe_models() if name is None else [describe_model(name)]
    for problem in broken_packages():
        console.say(f"warning: {problem}")
    for row in rows:
        if row["problem"]:
            console.say(f"warning: {row['model']} cannot be made: {row['problem']}")
    if json:
        console.print_json(rows if name is None else rows[0])
    elif name is None:
        keys = ["model", "streaming", "cost", "record", "paper", "summary"]
        head = ["model", "streaming", "cost", "bytes of a user", "paper", "what it is"]
        cells = [row | {"record": number(row["record_bytes"])} for row in rows]
        console.table("models", head, [[row[key] or "" for key in keys] for row in cells])
    else:
        _model_tables(rows[0])


def _model_tables(described: Mapping[str, Any]) -> None:
    """What a model is, and its settings and training's."""
    from longrec.runs.describe import values_of

    console.print_text(described["summary"])
    facts = {
        "paper": described["paper"],
        "mixers": ", ".join(described["mixers"] or ()),
        "cost": described["cost"],
        "streaming": described["streaming"],
        "bytes of a user": number(described["record_bytes"]),
        "plugin": described["plugin"],
    }
    console.facts_table(described["model"], {key: fact for key, fact in facts.items() if fact})
    paper = described["paper_settings"]
    for kind, owner in (("model", "the model"), ("training", "training")):
        rows = described[f"{kind}_settings"]
        head = ["key", "default", "values", "meaning"]
        cells = [
            [
                row["key"],
                "none" if row["default"] is None else str(row["default"]),
                values_of(row),
                row["meaning"],
            ]
            for row in rows
        ]
        if paper:  # what --recipe paper sets
            head.insert(2, "paper")
            for row, cell in zip(rows, cells, strict=True):
                cell.insert(2, str(paper.get(row["key"], "")))
        console.table(f"settings of {owner}", head, cells)
