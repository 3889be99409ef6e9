"""How good a model is: metrics as served and as the literature has them, baselines beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from typer import Option

from longrec.cli.common import EXCLUDE_SEEN, Data, Json, Plugin, Run, SeenItems
from longrec.cli.lists import numbers, words
from longrec.core import console
from longrec.core.choices import ProtocolName, SplitName

if TYPE_CHECKING:
    from longrec.evaluation.summary import Metrics

KS = "10,20,50"
Candidates = Literal["served", "filtered", "unfiltered"]
Cut = Annotated[
    list[str] | None,
    Option(
        metavar="DATE...",
        help="Of global-time: the date of the test cut, or of validation and test.",
    ),
]
Protocol = Annotated[
    ProtocolName | None, Option(help="How the log is cut; that of training if unset.")
]


def one_cut(dates: list[str] | None) -> str | None:
    """The cut at some dates, as Python and the settings have it."""
    return ",".join(words(dates)) if dates else None


def evaluate(
    run: Run,
    data: Data = None,
    split: Annotated[SplitName, Option(help="Which targets.")] = "test",
    protocol: Protocol = None,
    cut: Cut = None,
    exclude_seen: SeenItems = "auto",
    candidates: Annotated[
        Candidates, Option(help="Which reading leads the tables; all are shown.")
    ] = "served",
    ks: Annotated[
        list[str] | None,
        Option(
            "--ks",
            metavar="K...",
            help="Lengths of the lists that are measured.",
            show_default=KS.replace(",", " "),
        ),
    ] = None,
    baselines: Annotated[
        bool,
        Option("--baselines/--no-baselines", help="Whether to count and rank baselines beside it."),
    ] = True,
    plugin: Plugin = None,
    json: Json = False,
) -> None:
    """Rank every target among the whole catalog, and keep metrics and ranks in RUN.

    Example: [bold]longrec evaluate run --split test --json[/bold]
    """
    from longrec.artifact.policy import seen_items_line, transitions_line
    from longrec.recommender import load
    from longrec.runs.evaluate import evaluate as measure

    lengths = numbers("--ks", ks, KS)
    recommender = load(run)
    hides = EXCLUDE_SEEN[exclude_seen]
    console.say(seen_items_line(recommender, hides))
    if (line := transitions_line(recommender)) is not None:
        console.say(line)
    with console.progress_bar("ranking") as progress:
        metrics = measure(
            *(recommender, data, split),
            protocol=protocol,
            cut=one_cut(cut),
            ks=lengths,
            exclude_seen=hides,
            baselines=baselines,
            progress=progress,
        )
    if json:
        console.print_json(dict(metrics) | {"detail": metrics.to_dict(), "run": str(run)})
    else:
        _print(f"{recommender.name} ({run})", metrics, candidates)
    if "warning" in metrics.notes:
        console.say(f"warning: {metrics.notes['warning']}")


def _print(name: str, metrics: Metrics, candidates: Candidates) -> None:
    """The metrics of one model with intervals, baselines, and the protocol below."""
    from longrec.evaluation.beyond_accuracy import NAMES
    from longrec.evaluation.metrics import names
    from longrec.evaluation.summary import READINGS, SERVED, TITLES, UNFILTERED

    lead = {"served": SERVED, "filtered": "", "unfiltered": UNFILTERED}[candidates]
    others = [reading for reading in READINGS if reading != lead]
    rows: list[list[object]] = []
    for key in names(metrics.ks):
        low, high = metrics.intervals[lead + key]
        interval = f"{low:.4f} to {high:.4f}"
        rows.append([key, metrics[lead + key], interval, *(metrics[one + key] for one in others)])
    head = ["metric", TITLES[lead], f"95% interval ({TITLES[lead]})"]
    console.table(name, head + [TITLES[one] for one in others], rows)
    if metrics.baselines:
        _print_baselines(metrics)
    leading = metrics.leading.removeprefix(SERVED)
    shown = [leading, leading.replace("ndcg", "hr")]
    if len(metrics.buckets) > 1:
        console.table(
            "by history length",
            ["events", "targets", *(f"{key}, {TITLES[lead]}" for key in shown)],
            [[b.label, b.targets, *(b.estimates[lead + key] for key in shown)]
             for b in metrics.buckets],
        )  # fmt: skip
    if metrics.lists:
        drawn = f" ({metrics.lists:,} of them, drawn)"
        console.table(
            "lists as served" + (drawn if metrics.lists < metrics.counts["targets"] else ""),
            ["of the first", *(one.replace("_", " ") for one in NAMES)],
            [[k, *(metrics[f"{SERVED}{one}@{k}"] for one in NAMES)] for k in metrics.ks],
        )
    console.print_text(metrics.statement())


def _print_baselines(metrics: Metrics) -> None:
    """What counting alone reaches on the same targets, and whether the model beats it."""
    from longrec.evaluation.summary import READINGS, SERVED, TITLES

    key = metrics.leading.removeprefix(SERVED)
    rows: list[list[object]] = []
    for name, one in metrics.baselines.items():
        lead = ""
        if one.lead is not None:
            lead = f"{one.lead.mean:+.4f} ({one.lead.low:+.4f} to {one.lead.high:+.4f})"
        hides = "left out" if one.exclude_seen else "recommended"
        rows.append([name, hides, *(one[reading + key] for reading in READINGS), lead, one.verdict])
    first = next(iter(metrics.baselines.values()))
    sample = (
        f", {first.targets:,} of {first.of:,} targets drawn" if first.targets < first.of else ""
    )
    console.table(
        f"baselines, {key}{sample}",
        ["baseline", "seen items", *(TITLES[reading] for reading in READINGS),
         "model minus baseline, as served", "beaten"],
        rows,
    )  # fmt: skip
