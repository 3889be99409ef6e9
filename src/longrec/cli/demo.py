"""The demo: simulate, train, evaluate beside what is attainable, recommend, report.

Far evidence is simulated: a user's old interest returns after a long absence, so that a model that
reads only the last events cannot know it, and the exact filter says how much that costs.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from longrec.artifact.provenance import provenance
from longrec.comparison.attainable import attainable
from longrec.comparison.document import statement_of
from longrec.comparison.examples import examples
from longrec.comparison.read_runs import read_ranks, report_row
from longrec.comparison.report import provenance_facts
from longrec.core import console
from longrec.core.errors import UsageError
from longrec.core.format import duration
from longrec.data.splits import make_split
from longrec.evaluation.report.contents import Report, by_value
from longrec.evaluation.report.opening import opening
from longrec.evaluation.report.page import write_report
from longrec.evaluation.report.pairs import compare_pairs
from longrec.evaluation.summary import LEADING, SERVED
from longrec.runs.evaluate import evaluate
from longrec.runs.train import train
from longrec.simulator.config import GATE_ITEM, World
from longrec.simulator.simulate import SimulationConfig, simulate

WINDOW = 50
MARKER = "demo.json"
"""A file that says that a folder holds a demo, which the next one may replace."""
MINUTES = 3.2
"""Of training in all: the rest of the demo's four minutes goes into simulating and ranking."""
MODELS: dict[str, dict[str, Any]] = {
    "popularity": {},
    "last-item": {},
    "transitions": {},
    "sasrec": {"layers": 1, "max_length": WINDOW, "max_minutes": 1.2},
    "elastic": {"layers": 1},  # as long as is left, two minutes at the least
}
# Minutes have few steps: one layer, a higher rate and a quicker average make the most of them.
TRAINING: dict[str, Any] = {"patience": 5, "learning_rate": 5e-3, "average": 0.99}
SHOWN = ("elastic", "sasrec", "transitions")
"""Models whose lists are shown side by side."""
STORY = (
    "A user has three lasting interests, follows them for a visit of 16 events, runs errands for "
    f"60, and comes back to them at the end: what tells the next item stands more than {WINDOW} "
    f"events back, where SASRec, which here reads the last {WINDOW}, cannot see it"
)
METRICS = ("ndcg@10", "hr@10", "mrr@10")


def run_demo(out: Path, users: int, seed: int, as_json: bool) -> None:
    """Run the demo into the folder `out`, replacing an earlier demo there."""
    _clear(out)
    with console.status("simulating histories"):
        simulation = simulate(SimulationConfig(users=users, seed=seed))
        histories = simulation.to_histories(out / "histories")
    about = provenance(histories, seed)
    facts = provenance_facts(about)
    lengths = histories.lengths
    console.say(
        f"simulated {facts['data']}; histories of {lengths.mean():.0f} events on average, "
        f"at most {lengths.max():,}"
    )
    models, spent = {}, 0.0
    for name, own in MODELS.items():
        settings = {"max_minutes": MINUTES - spent / 60} | TRAINING | own
        models[name] = train(histories, name, out / name, seed=seed, progress=True, **settings)
        spent += models[name].provenance["training"]["seconds"]
        with console.progress_bar(f"{name}: ranking") as progress:
            evaluate(models[name], histories, baselines=False, progress=progress)
    rows = [report_row([out / name], name) for name in MODELS]
    ranks = {name: read_ranks(out / name) for name in MODELS}
    pairs = compare_pairs(ranks, LEADING, {row.name for row in rows if row.is_tested})
    with console.status("computing what is attainable, by exact filtering"):
        split = make_split("leave-one-out", histories)
        rows += attainable(simulation, histories, split, WINDOW)
    rows = by_value(rows, LEADING)
    shown, _ = examples(histories, {name: models[name] for name in SHOWN})
    report = Report(
        "longrec demo: simulated histories",
        rows,
        shown,
        facts
        | {
            "seed": str(seed),
            "simulation": repr(simulation.config),
            "fingerprint": histories.fingerprint[:12],
            "threads": str(about["machine"]["threads"]),
        },
        statement_of(rows),
        pairs,
        data=f"Simulated histories: {facts['data']}. {STORY}",
        titles=_titles(simulation.world),
    )
    path = write_report(out / "report.html", report)
    if as_json:
        found = [
            {"name": row.name, "kind": row.kind, "train_seconds": row.cost.seconds}
            | dict(row.metrics)
            for row in rows
        ]
        about_rows = {"summary": opening(report, LEADING), "rows": found}
        console.print_json({"report": str(path)} | about_rows)
    else:
        _print(report)
        console.print_text(f"report: {path}")


def _clear(out: Path) -> None:
    """Make room for the demo; only an earlier demo is replaced."""
    if out.exists() and any(out.iterdir()):
        if not (out / MARKER).is_file():
            raise UsageError(f"{out} exists and holds no demo: choose another folder with --out")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).write_text('{"demo": 1}\n')


def _titles(world: World) -> dict[str, str]:
    """What simulated items are of: an interest or errand by its number, and a part of it."""
    law = world.weights[: world.home + world.away].argmax(axis=0)
    parts = world.config.facets
    homes = world.home // parts
    titles = {}
    for id, own in zip(world.item_ids(), law.tolist(), strict=True):
        number, part = own // parts, "abcdefgh"[own % parts]
        what = f"interest {number + 1}" if number < homes else f"errand {number - homes + 1}"
        titles[id] = f"{what}{part}"
    titles[world.item_ids()[GATE_ITEM]] = "way back"
    return titles


def _print(report: Report) -> None:
    """The metrics of every row, the example users, and what was found."""
    console.table(
        "test targets, as served",
        ["system", *METRICS, "trained in", "ended"],
        [
            [
                row.name,
                *(row.metrics[SERVED + metric] for metric in METRICS),
                "" if row.cost.seconds is None else duration(row.cost.seconds),
                "not converged" if row.converged is False else row.end,
            ]
            for row in report.rows
        ],
    )
    for one in report.recommendations:
        console.table(
            f"user {one.user}: last events {_shown(one.history, report.titles)}; "
            f"came next: {_shown([one.target], report.titles)}",
            ["model", "recommended"],
            [
                [name, _shown([item for item, _ in items], report.titles)]
                for name, items in one.by_model.items()
            ],
        )
    for name, text in opening(report, LEADING).items():
        console.print_text(f"{name.capitalize()}: {text}")


def _shown(items: Iterable[object], titles: Mapping[object, str]) -> str:
    return ", ".join(f"{item} ({titles[item]})" for item in items)
