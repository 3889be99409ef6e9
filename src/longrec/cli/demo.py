"""The demo: simulate, train, evaluate beside what is attainable, recommend, report.

Far evidence is simulated: a user's old interest returns after a long absence, so that a model that
reads only the last events cannot know it, and the exact filter says how much that costs.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from longrec.artifact.provenance import provenance
from longrec.comparison.attainable import attainable
from longrec.comparison.read_runs import report_row
from longrec.comparison.report import provenance_facts
from longrec.core import console
from longrec.core.errors import UsageError
from longrec.core.format import duration
from longrec.data.histories import Histories
from longrec.data.splits import make_split
from longrec.evaluation.report.contents import Report, UserRecommendations
from longrec.evaluation.report.page import write_report
from longrec.evaluation.summary import SERVED, Metrics
from longrec.recommender import Recommender
from longrec.runs.evaluate import evaluate
from longrec.runs.train import train
from longrec.simulator.simulate import SimulationConfig, simulate

WINDOW = 50
MARKER = "demo.json"
"""A file that says that a folder holds a demo, which the next one may replace."""
MODELS: dict[str, dict[str, Any]] = {
    "popularity": {},
    "last-item": {},
    "transitions": {},
    # About the same minutes for both.
    "sasrec": {"max_length": WINDOW, "max_epochs": 30},
    "elastic": {"max_epochs": 14},
}
# A minute has few steps: a higher rate and a quicker average make the most of them.
TRAINING: dict[str, Any] = {
    "patience": 4,
    "max_minutes": 1.5,
    "learning_rate": 2e-3,
    "average": 0.99,
}
METRICS = ("ndcg@10", "hr@10", "mrr@10")


def run_demo(out: Path, users: int, seed: int, as_json: bool) -> None:
    """Run the demo into the folder `out`, replacing an earlier demo there."""
    _clear(out)
    with console.err.status("simulating histories"):
        simulation = simulate(SimulationConfig(users=users, seed=seed))
        histories = simulation.to_histories(out / "histories")
    about = provenance(histories, seed)
    facts = provenance_facts(about)
    lengths = histories.lengths
    console.say(
        f"simulated {facts['data']}; histories of {lengths.mean():.0f} events on average, "
        f"at most {lengths.max():,}"
    )
    models = {}
    for name, settings in MODELS.items():
        models[name] = train(
            histories, name, out / name, seed=seed, progress=True, **settings, **TRAINING
        )
        with console.progress_bar(f"{name}: ranking") as progress:
            evaluate(models[name], histories, baselines=False, progress=progress)
    rows = [report_row([out / name], name) for name in MODELS]
    with console.err.status("computing what is attainable, by exact filtering"):
        split = make_split("leave-one-out", histories)
        rows += attainable(simulation, histories, split, WINDOW)
    metrics = rows[0].metrics
    assert isinstance(metrics, Metrics)
    report = Report(
        "longrec demo: simulated histories",
        rows,
        _examples(histories, {name: models[name] for name in ("elastic", "sasrec")}),
        facts
        | {
            "seed": str(seed),
            "simulation": repr(simulation.config),
            "fingerprint": histories.fingerprint[:12],
            "threads": str(about["machine"]["threads"]),
        },
        metrics.statement(),
    )
    path = write_report(out / "report.html", report)
    if as_json:
        found = [
            {"name": row.name, "kind": row.kind, "train_seconds": row.cost.seconds}
            | dict(row.metrics)
            for row in rows
        ]
        console.print_json({"report": str(path), "rows": found})
    else:
        _print(report, metrics)
        console.print_text(f"report: {path}")


def _clear(out: Path) -> None:
    """Make room for the demo; only an earlier demo is replaced."""
    if out.exists() and any(out.iterdir()):
        if not (out / MARKER).is_file():
            raise UsageError(f"{out} exists and holds no demo: choose another folder with --out")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).write_text('{"demo": 1}\n')


def _examples(histories: Histories, models: dict[str, Recommender]) -> list[UserRecommendations]:
    """Recommendations of each model for three users, with the last events of their histories."""
    examples = []
    for row in (0, histories.n_users // 2, histories.n_users - 1):
        user = histories.user_ids[row]
        begin, end = histories.offsets[row : row + 2]
        recent = histories.catalog.take(histories.items[max(begin, end - 8) : end]).to_list()
        by_model = {
            name: model.recommend([user], histories, k=5).select("item", "score").rows()
            for name, model in models.items()
        }
        examples.append(UserRecommendations(user, recent, by_model))
    return examples


def _print(report: Report, metrics: Metrics) -> None:
    """The metrics of every row, and the example users, as tables."""
    console.table(
        "test targets, as served",
        ["system", *METRICS, "trained in"],
        [
            [
                row.name,
                *(row.metrics[SERVED + metric] for metric in METRICS),
                "" if row.cost.seconds is None else duration(row.cost.seconds),
            ]
            for row in report.rows
        ],
    )
    for example in report.recommendations:
        console.table(
            f"user {example.user}: last events {', '.join(map(str, example.history))}",
            ["model", "recommended"],
            [
                [name, ", ".join(str(item) for item, _ in items)]
                for name, items in example.by_model.items()
            ],
        )
