"""From histories to a trained model and its metrics, and the models that there are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from longrec.cli.common import (
    Data,
    Device,
    Histories,
    Json,
    Plugin,
    Run,
    plugin_words,
    print_result,
    resumable,
)
from longrec.core import console
from longrec.core.choices import Part
from longrec.core.errors import UsageError
from longrec.core.format import duration, number

if TYPE_CHECKING:
    from longrec.evaluation.summary import Metrics


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
    plugin: Plugin = None,
    json: Json = False,
) -> None:
    """Train a model on histories.

    Example: [bold]longrec train histories --model elastic --out run --set dim=64[/bold]
    """
    import shlex

    from longrec.data.histories import open_histories
    from longrec.models.common.settings import parse_assignments
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
    plugins = plugin_words(plugin)
    again = shlex.join(["longrec", "train", str(histories), "--out", str(out), *plugins])
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
            _gain_table(warm["warm_start"])
        console.say("next: " + shlex.join(["longrec", "evaluate", str(out), *plugins]))


def evaluate(
    run: Run,
    data: Data = None,
    split: Annotated[Part, Option(help="Which targets.")] = "test",
    protocol: Annotated[
        str | None,
        Option(help="leave-one-out, global-time or prequential; that of training if unset."),
    ] = None,
    plugin: Plugin = None,
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
        _metrics_table(f"{recommender.name} ({run})", metrics)
    if "warning" in metrics.notes:
        console.say(f"warning: {metrics.notes['warning']}")


def models(
    name: Annotated[str | None, Argument(help="Show one model's settings.")] = None,
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
    for kind, owner in (("model", "the model"), ("training", "training")):
        console.table(
            f"settings of {owner}",
            ["key", "default", "values", "meaning"],
            [
                [row["key"], str(row["default"]), values_of(row), row["meaning"]]
                for row in described[f"{kind}_settings"]
            ],
        )


def _metrics_table(name: str, metrics: Metrics) -> None:
    """The metrics of one model with intervals, and the protocol below."""
    from longrec.evaluation.metrics import names
    from longrec.evaluation.summary import READINGS, SERVED, TITLES

    rows: list[list[object]] = []
    for key in names():
        low, high = metrics.intervals[SERVED + key]
        interval = f"{low:.4f} to {high:.4f}"
        others = [metrics[reading + key] for reading in READINGS[1:]]
        rows.append([key, metrics[SERVED + key], interval, *others])
    titles = [TITLES[reading] for reading in READINGS]
    console.table(name, ["metric", titles[0], f"95% interval ({titles[0]})", *titles[1:]], rows)
    if len(metrics.buckets) > 1:
        console.table(
            "by history length",
            ["events", "targets", *(f"{key}, as served" for key in ("ndcg@10", "hr@10"))],
            [
                [b.label, b.targets, *(b.estimates[SERVED + key] for key in ("ndcg@10", "hr@10"))]
                for b in metrics.buckets
            ],
        )
    console.print_text(metrics.protocol())


def _gain_table(warm: Mapping[str, Any]) -> None:
    """What a warm start gained over the run that it started from, on the new period."""
    gain = warm["gain"]
    if not gain["targets"]:
        console.print_text(f"gain: not measured, since {gain['note']}")
        return
    rows: list[list[object]] = []
    parts = [("all", gain), ("items that the old model knows", gain.get("of_known_items"))]
    for name, part in parts:
        for key in () if part is None else ("served/ndcg@10", "served/hr@10"):
            found = part[key]
            low, high = found["interval"]
            change = f"{found['difference']:+.4f} ({low:+.4f} to {high:+.4f})"
            rows.append([name, part["targets"], key, found["old"], found["new"], change])
    console.table(
        f"gain over {warm['run'] or 'the old model'} on the new period",
        ["targets", "number", "metric", "old", "new", "difference (95% interval)"],
        rows,
    )
    console.print_text(
        f"Test targets ({gain['split']}) newer than the old model's data, full ranking, each model "
        f"as it is served. The old model does not know the item of {gain['unknown_to_old']:.1%} of "
        "them, which counts as a miss."
    )
