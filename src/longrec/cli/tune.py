"""The settings that serve a log best, searched for within a budget of time."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from longrec.cli.common import (
    Device,
    Epochs,
    Json,
    Overwrite,
    Plugin,
    Settings,
    plugin_words,
    resumable,
    settings_of_call,
)
from longrec.cli.completion import complete_models, complete_setting
from longrec.cli.lists import words
from longrec.core import console
from longrec.core.errors import UsageError


def tune(
    histories: Annotated[
        list[Path],
        Argument(metavar="HISTORIES...", help="One or more logs.", show_default=False),
    ],
    budget: Annotated[
        float,
        Option(metavar="MINUTES", help="Of the whole search.", show_default=False),
    ],
    out: Annotated[Path, Option(help="The search's folder.", show_default=False)],
    model: Annotated[
        list[str] | None,
        Option(
            "--model",
            "--models",
            metavar="NAME...",
            help="See `longrec models`; chosen for the log if left out. Of several the best is "
            "searched.",
            autocompletion=complete_models,
        ),
    ] = None,
    search: Annotated[
        list[str] | None,
        Option(
            metavar="KEY=VALUES...",
            help="What is searched and nothing else: KEY=LOW..HIGH, KEY=A,B, or KEY alone.",
            autocompletion=complete_setting,
        ),
    ] = None,
    settings: Settings = None,
    config: Annotated[
        Path | None,
        Option(metavar="FILE", help="A TOML file of settings to begin with."),
    ] = None,
    epochs: Epochs = None,
    trial_minutes: Annotated[
        float | None,
        Option(metavar="MINUTES", help="Most of a trial; an eighth of the budget if left out."),
    ] = None,
    trials: Annotated[int | None, Option(min=1, help="Most trials.")] = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
    plugin: Plugin = None,
    json: Json = False,
) -> None:
    """Search the settings that serve a log best, by trainings within a budget of time.

    The first trial is what `train` would train. The same command goes on after an interruption.

    Example: [bold]longrec tune histories --budget 60 --out tuned[/bold]
    """
    import shlex
    from inspect import signature

    from longrec.tuning.results import trials_table
    from longrec.tuning.tune import tune as run

    fixed = settings_of_call(settings, max_epochs=epochs)
    for key in fixed.keys() & signature(run).parameters.keys():
        raise UsageError(f"{key} is no setting; it has an option of its own, see --help")
    again = shlex.join(["longrec", *sys.argv[1:]])
    with resumable(f"go on with the same command: {again}"):
        found = run(
            list(histories),
            words(model) or None,
            budget=budget,
            out=out,
            search=search,
            config=config,
            trial_minutes=trial_minutes,
            trials=trials,
            device=device,
            overwrite=overwrite,
            progress=True,
            **fixed,
        )
    if json:
        console.print_json(found.to_dict() | {"report": str(found.report)})
        return
    console.table(f"{out}: best trials, validation as served", *trials_table(found))
    for line in found.lines():
        console.print_text(line)
    console.say(f"report: {found.report}")
    plugins = plugin_words(plugin)
    run_of_best, log = str(next(iter(found.runs.values()))), str(histories[0])
    console.say("next: " + shlex.join(["longrec", "evaluate", run_of_best, *plugins]))
    config_words = ["--config", str(found.config), "--out", f"{out}-run"]
    console.say(
        "to train with these settings: "
        + shlex.join(["longrec", "train", log, *config_words, *plugins])
    )
