"""The demo: simulate, train, evaluate beside what is attainable, recommend, report.

Far evidence is simulated: a user's old interest returns after a long absence, so that a model that
reads only the last events cannot know it, and the exact filter says how much that costs.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import polars as pl

from longrec.artifact.provenance import provenance
from longrec.compare.read_runs import report_row
from longrec.core import console
from longrec.core.errors import UsageError
from longrec.core.format import duration
from longrec.data.histories import Histories
from longrec.data.splits import Split, make_split
from longrec.evaluation.report.contents import Report, ReportRow, UserRecommendations
from longrec.evaluation.report.page import write_report
from longrec.evaluation.summary import Metrics, summarise_ranks
from longrec.recommender import Recommender
from longrec.runs.evaluate import evaluate
from longrec.runs.train import train
from longrec.simulator.ceiling import ceiling
from longrec.simulator.simulate import Simulation, SimulationConfig, simulate

WINDOW = 50
MARK = "demo.json"
MODELS: dict[str, dict[str, Any]] = {
    "popularity": {},
    "last-item": {},
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
    lengths = histories.lengths
    console.say(
        f"simulated {histories.n_users:,} users, {histories.n_items:,} items, "
        f"{histories.n_events:,} events; histories of {lengths.mean():.0f} events on average, "
        f"at most {lengths.max():,}"
    )
    split = make_split("leave-one-out", histories)
    trained: dict[str, Recommender] = {}
    rows: list[ReportRow] = []
    for name, settings in MODELS.items():
        trained[name], row = _train(name, histories, out, seed, settings)
        rows.append(row)
    with console.err.status("computing what is attainable, by exact filtering"):
        rows += attainable(simulation, histories, split, WINDOW)
    chosen = histories.user_ids.gather([0, histories.n_users // 2, histories.n_users - 1])
    examples = _examples(histories, chosen, {k: trained[k] for k in ("elastic", "sasrec")})
    report = write_report(
        out / "report.html",
        Report(
            "longrec demo: simulated histories",
            rows,
            examples,
            _facts(histories, simulation.config, seed),
            rows[0].metrics.protocol() if isinstance(rows[0].metrics, Metrics) else "",
        ),
    )
    _show(rows, examples, report, as_json)


def _clear(out: Path) -> None:
    """Make room for the demo; only an earlier demo is replaced."""
    if out.exists() and any(out.iterdir()):
        if not (out / MARK).is_file():
            raise UsageError(f"{out} exists and holds no demo: choose another folder with --out")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARK).write_text('{"demo": 1}\n')


def _train(
    name: str, histories: Histories, out: Path, seed: int, settings: dict[str, Any]
) -> tuple[Recommender, ReportRow]:
    """Train one model, evaluate it on the test targets, and make its row of the report."""
    run = out / name
    recommender = train(histories, name, run, seed=seed, progress=True, **settings, **TRAINING)
    with console.progress_bar(f"{name}: ranking") as ranked:
        evaluate(recommender, histories, progress=ranked)
    return recommender, report_row([run], name)


def attainable(
    simulation: Simulation, histories: Histories, split: Split, window: int
) -> list[ReportRow]:
    """What the best model can reach with the last `window` events, and with all of them."""

    def best(within: int | None) -> Metrics:
        ranks = ceiling(simulation, histories, split.test, window=within)
        return summarise_ranks(ranks, split.name, split.notes)

    return [
        ReportRow(f"best with the last {window} events", "bound", best(window)),
        ReportRow("best with the whole history", "ceiling", best(None)),
    ]


def _examples(
    histories: Histories, users: pl.Series, trained: dict[str, Recommender]
) -> list[UserRecommendations]:
    """Recommendations of each model for some users, with the last events of their histories."""
    frames = {name: rec.recommend(users, histories, k=5) for name, rec in trained.items()}
    examples = []
    for row, user in zip(histories.find_users(users), users, strict=True):
        begin, end = histories.offsets[row : row + 2]
        recent = histories.catalog.take(histories.items[max(begin, end - 8) : end]).to_list()
        by_model = {
            name: frame.filter(pl.col("user") == user).select("item", "score").rows()
            for name, frame in frames.items()
        }
        examples.append(UserRecommendations(user, recent, by_model))
    return examples


def _facts(histories: Histories, config: SimulationConfig, seed: int) -> dict[str, str]:
    made = provenance(histories, seed)
    machine = made["machine"]
    return {
        "command": made["command"],
        "seed": str(seed),
        "simulation": repr(config),
        "data": f"{histories.n_users:,} users, {histories.n_items:,} items, "
        f"{histories.n_events:,} events, fingerprint {histories.fingerprint[:12]}",
        "machine": f"{machine['processor']}, {machine['cores']} cores, "
        f"{machine['threads']} threads",
        "versions": ", ".join(f"{k} {v}" for k, v in made["versions"].items()),
        "commit": str(made["commit"] or "installed package"),
        "time": made["started"],
    }


def _show(
    rows: list[ReportRow], examples: list[UserRecommendations], report: Path, as_json: bool
) -> None:
    lead = rows[0].metrics
    assert isinstance(lead, Metrics)
    keys = [lead.headline(metric) for metric in METRICS]
    if as_json:
        console.print_json(
            {
                "report": str(report),
                "rows": [
                    {"name": r.name, "kind": r.kind, "train_seconds": r.cost.seconds}
                    | dict(r.metrics)
                    for r in rows
                ],
            }
        )
        return
    console.table(
        f"test targets, {'seen items filtered' if lead.lead == 'filtered' else 'unfiltered'}",
        ["system", *METRICS, "trained in"],
        [
            [
                r.name,
                *(r.metrics[key] for key in keys),
                "" if r.cost.seconds is None else duration(r.cost.seconds),
            ]
            for r in rows
        ],
    )
    for example in examples:
        console.table(
            f"user {example.user}: last events {', '.join(map(str, example.history))}",
            ["model", "recommended"],
            [
                [name, ", ".join(str(item) for item, _ in items)]
                for name, items in example.by_model.items()
            ],
        )
    console.out.print(f"report: {report}")
