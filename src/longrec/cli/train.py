"""From histories to trained models, compared or shown."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from longrec.cli.options import Json


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

    from longrec.cli.tables import gain_table
    from longrec.config.parse import parse_assignments
    from longrec.core import console
    from longrec.core.errors import LongrecError, UsageError
    from longrec.core.format import duration
    from longrec.data.histories import open_histories
    from longrec.runs.train import train as run

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
            "time": duration(ending["seconds"]),
            "validation": validation,
            "left out by the context": f"{ending['dropped']:,} events",
        },
    )
    if "warm_start" in recommender.provenance:
        gain_table(recommender.provenance["warm_start"])
    console.say(f"next: longrec evaluate {out}")


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

    from longrec.compare.compare import compare as run
    from longrec.compare.report import summary_table
    from longrec.config.parse import parse_assignments
    from longrec.core import console
    from longrec.core.errors import LongrecError

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
    from longrec.cli.demo import run_demo

    run_demo(out, users=users, seed=seed, as_json=json)
