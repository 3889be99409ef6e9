"""Several models compared under equal budgets, and the demo, which does so on simulated data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from typer import Option

from longrec.cli.common import (
    Config,
    Device,
    Epochs,
    Histories,
    Json,
    Overwrite,
    Plugin,
    Settings,
    resumable,
    settings_of_call,
)
from longrec.cli.completion import complete_models
from longrec.cli.lists import words
from longrec.core import console
from longrec.core.choices import MOST_SEEDS
from longrec.core.errors import LongrecError


def compare(
    histories: Histories,
    models: Annotated[
        list[str],
        Option(
            metavar="NAME...",
            help="Models, or variants NAME:KEY=VALUE:KEY=VALUE; auto: chosen for the log.",
            show_default=False,
            autocompletion=complete_models,
        ),
    ],
    budget: Annotated[
        float,
        Option(
            "--budget",
            "--minutes",
            metavar="MINUTES",
            help="Of training, for each run.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, Option(help="The comparison's folder.", show_default=False)],
    settings: Settings = None,
    config: Config = None,
    epochs: Epochs = None,
    seeds: Annotated[int, Option(min=1, max=MOST_SEEDS, help="Trainings of each model.")] = 1,
    baselines: Annotated[
        bool,
        Option("--baselines/--no-baselines", help="Whether to compare the baselines as well."),
    ] = True,
    overwrite: Overwrite = False,
    device: Device = "auto",
    plugin: Plugin = None,
    json: Json = False,
) -> None:
    """Train models under equal budgets, each in its own process, and report what they reach.

    The same command goes on with what was interrupted or failed, and may name more models.

    Example: [bold]longrec compare histories --models elastic,sasrec --budget 20 --out out[/bold]
    """
    import shlex

    from longrec.comparison.compare import compare as run
    from longrec.comparison.document import summary_table
    from longrec.evaluation.summary import label

    common = settings_of_call(settings, max_epochs=epochs)
    again = shlex.join(["longrec", *sys.argv[1:]])
    with resumable(f"go on with the same command: {again}"):
        comparison = run(
            *(histories, ",".join(words(models)), budget, out),
            settings=common,
            config=config,
            seeds=seeds,
            device=device,
            baselines=baselines,
            overwrite=overwrite,
            progress=True,
        )
    if json:
        console.print_json(comparison.to_dict() | {"report": str(comparison.report)})
    else:
        console.table(f"{out}: by {label(comparison.metric)}", *summary_table(comparison.rows))
        if any(row.converged is False for row in comparison.rows):
            console.print_text(
                "Not converged: still improving when training ended, so that no test counts it."
            )
        console.print_text(comparison.statement)
        console.say(f"report: {comparison.report}")
    if comparison.failures:
        raise LongrecError(
            f"{len(comparison.failures)} of the runs failed: "
            + "; ".join(
                f"{failure.name} in {failure.phase} ({failure.error}; see {failure.log})"
                for failure in comparison.failures
            )
            + ". The same command tries them again."
        )


def demo(
    out: Annotated[Path, Option(help="Folder for histories, runs and report.")] = Path("demo"),
    users: Annotated[int, Option(min=50, help="Users to simulate.")] = 2000,
    seed: Annotated[int, Option(min=0, help="Seed of everything.")] = 0,
    json: Json = False,
) -> None:
    """Simulate histories, train ELASTIC and SASRec, compare them with what is attainable.

    Example: [bold]longrec demo --out demo[/bold]
    """
    from longrec.cli.demo import run_demo

    run_demo(out, users=users, seed=seed, as_json=json)
