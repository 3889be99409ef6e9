"""From histories to a trained model and its metrics, and the models that there are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from longrec.cli.options import Data, Device, Histories, Json, Run
from longrec.cli.output import gain_table, metrics_table, print_result, resumable
from longrec.core import console
from longrec.core.choices import Part
from longrec.core.errors import UsageError
from longrec.core.format import duration


def train(
    histories: Histories,
    out: Annotated[Path, Option(help="The run's folder.", show_default=False)],
    model: Annotated[str | None, Option(help="See `longrec models`; elastic if left out.")] = None,
    settings: Annotated[
        list[str] | None,
        Option("--set", metavar="KEY=VALUE", help="A setting; see `longrec models NAME`."),
    ] = None,
    context: Annotated[
        int | None, Option(min=1, help="Read only the last so many events of a history.")
    ] = None,
    warm_start: Annotated[
        Path | None,
        Option(metavar="RUN", help="Start from the weights of a run, on newer histories."),
    ] = None,
    resume: Annotated[bool, Option("--resume", help="Go on with an interrupted run.")] = False,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Train a model on histories.

    Example: [bold]longrec train histories --model elastic --out run --set dim=64[/bold]
    """
    import shlex

    from longrec.config.parse import parse_assignments
    from longrec.data.histories import open_histories
    from longrec.runs.train import train as run

    values: dict[str, Any] = dict(parse_assignments(settings or []))
    if context is not None:
        if "context" in values:
            raise UsageError("the context is given twice: by --context and by --set")
        values["context"] = context
    data = open_histories(histories)
    console.say(
        f"{histories}: {data.n_users:,} users, {data.n_items:,} items, {data.n_events:,} events"
    )
    again = shlex.join(["longrec", "train", str(histories), "--out", str(out)])
    with resumable(f"go on with: {again} --resume"):
        recommender = run(
            data,
            model,
            out,
            warm_start=warm_start,
            resume=resume,
            device=device,
            progress=True,
            **values,
        )
    ending = recommender.provenance["training"]
    warm = {k: v for k, v in recommender.provenance.items() if k == "warm_start"}
    converged = "" if ending["converged"] else " (not converged: it was still improving)"
    print_result(
        json,
        {"run": str(out), "model": recommender.name} | ending | warm,
        str(out),
        {
            "model": recommender.name,
            "ended": ending["stop"] + converged,
            "epochs": ending["epochs"],
            "time": duration(ending["seconds"]),
            "validation": ", ".join(f"{k} {v:.4f}" for k, v in ending["validation"].items()),
            "left out by the context": f"{ending['dropped']:,} events",
        },
    )
    if not json:
        if warm:
            gain_table(warm["warm_start"])
        console.say(f"next: longrec evaluate {out}")


def evaluate(
    run: Run,
    data: Data = None,
    split: Annotated[Part, Option(help="Which targets.")] = "test",
    protocol: Annotated[
        str | None,
        Option(help="leave-one-out, global-time or prequential; that of training if unset."),
    ] = None,
    json: Json = False,
) -> None:
    """Rank every target among the whole catalog, and keep metrics and ranks in RUN.

    Example: [bold]longrec evaluate run --split test --json[/bold]
    """
    from longrec.recommender import load
    from longrec.runs.evaluate import evaluate as measure

    recommender = load(run)
    with console.progress_bar("ranking") as progress:
        metrics = measure(recommender, data, split, protocol=protocol, progress=progress)
    if json:
        console.print_json(dict(metrics) | {"detail": metrics.to_dict(), "run": str(run)})
    else:
        metrics_table(f"{recommender.name} ({run})", metrics)
    if "warning" in metrics.notes:
        console.say(f"warning: {metrics.notes['warning']}")


def models(
    name: Annotated[str | None, Argument(help="Show one model's settings.")] = None,
    json: Json = False,
) -> None:
    """List the models, or the settings of one.

    Example: [bold]longrec models elastic[/bold]
    """
    from longrec.config.parse import describe_model, describe_models

    described = describe_models() if name is None else describe_model(name)
    if json:
        console.print_json(described)
    elif isinstance(described, list):
        columns = ["model", "streaming", "summary"]
        rows = [[row[key] for key in columns] for row in described]
        console.table("models", ["model", "streaming", "what it is"], rows)
    else:
        console.print_text(described["summary"])
        for kind, owner in (("model", "the model"), ("training", "training")):
            console.table(
                f"settings of {owner}",
                ["key", "default", "values"],
                [
                    [row["key"], str(row["default"]), row["type"]]
                    for row in described[f"{kind}_settings"]
                ],
            )
