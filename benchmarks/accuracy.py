"""Keep what finished runs reach on their test targets, with transitions and without, and show it.

    python benchmarks/accuracy.py add LOG RUN [RUN ...]   once a recipe is finished: reads the test
    python benchmarks/accuracy.py show                    tables and pictures of docs/accuracy.md

A cell is a line of benchmarks/accuracy/cells.jsonl: settings, minutes, commit and aggregates of one
run on a log of that name, by history length too. `show` prints the tables as Markdown, and writes
docs/images/accuracy-lengths.png and docs/images/accuracy-minutes.png.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import longrec
from longrec.config.border import changed_settings
from longrec.evaluation.report.drawing import COLOURS, LINES, MARKERS, on_white

HERE = Path(__file__).resolve()
CELLS = HERE.with_suffix("") / "cells.jsonl"
IMAGES = HERE.parents[1] / "docs" / "images"
METRICS = ("served/ndcg@10", "served/hr@10")
NOT_OF_A_RECIPE = (
    *("clock", "workers", "max_minutes", "seed", "validation_users", "checkpoint_minutes"),
)


def main(word: str, *given: str) -> None:
    """Add cells, or show them."""
    if word == "add":
        log, *runs = given
        kept = [cell["digest"] for cell in read()]
        for run in runs:
            recommender = longrec.load(run)
            if recommender.state_digest not in kept:
                with CELLS.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"log": log} | measured(recommender)) + "\n")
    for log in sorted({cell["log"] for cell in read()}):
        print(table(log, [cell for cell in read() if cell["log"] == log]))
    for name, draw in (("lengths", draw_lengths), ("minutes", draw_minutes)):
        files = on_white(draw, 1.0 + 2.4 * len({cell["log"] for cell in read()}), 8.0)
        (IMAGES / f"accuracy-{name}.png").write_bytes(files["png"])


def read() -> list[dict[str, Any]]:
    """The cells that are kept."""
    lines = CELLS.read_text(encoding="utf-8").splitlines() if CELLS.exists() else []
    return [json.loads(line) for line in lines]


def measured(recommender: longrec.Recommender) -> dict[str, Any]:
    """Test metrics of a run with what was added to its scores and without, and how it was made."""
    about, ending = recommender.provenance, recommender.provenance["training"]
    evaluated = longrec.evaluate(recommender, progress=False)
    alone = evaluated
    if recommender.added is not None:
        policy = evaluated.exclude_seen
        assert policy is not None
        bare = recommender.with_added_score(None)
        alone = longrec.evaluate(bare, exclude_seen=policy, baselines=False, progress=False)
    settings = changed_settings(recommender.model_config, recommender.train_config)
    if "teachers" in settings:  # where they stood is of no use to others
        settings["teachers"] = len(about["teachers"])
    return {
        "digest": recommender.state_digest,
        "model": recommender.name,
        "settings": {k: v for k, v in settings.items() if k not in NOT_OF_A_RECIPE},
        "seed": about["seed"],
        "minutes": round(ending["seconds"] / 60, 1),
        "epochs": ending["epochs"],
        "stop": ending["stop"],
        "validation": ending["validation"][METRICS[0]],
        "transitions": about.get("transitions"),
        "with": aggregates(evaluated),
        "without": aggregates(alone),
        "baselines": {
            name: found.estimates[METRICS[0]] for name, found in evaluated.baselines.items()
        },
        "curve": recommender.curve.select("seconds", "ndcg10").rows(),
        "commit": about["commit"],
        "machine": about["machine"],
    }


def aggregates(metrics: longrec.Metrics) -> dict[str, Any]:
    """Estimates, intervals and the buckets of one evaluation."""
    return {
        "policy": "seen items left out" if metrics.exclude_seen else "seen items recommended",
        "estimates": {key: metrics[key] for key in (*METRICS, "ndcg@10", "hr@10")},
        "intervals": {key: metrics.intervals[key] for key in METRICS},
        "buckets": [(b.label, b.targets, b.estimates[METRICS[0]]) for b in metrics.buckets],
    }


def name_of(cell: dict[str, Any]) -> str:
    """A model with the settings that are not its defaults."""
    parts = [f"{key} {value}" for key, value in cell["settings"].items()]
    return ", ".join([f"`{cell['model']}`", *parts])


def table(log: str, cells: list[dict[str, Any]]) -> str:
    """The test metrics of a log's runs, as Markdown."""
    lines = [
        f"\n### {log}\n",
        "| run | minutes | epochs | network alone, NDCG@10 / HR@10 | with transitions (95%) |",
        "|---|---|---|---|---|",
    ]
    for cell in sorted(cells, key=lambda cell: -cell["with"]["estimates"][METRICS[0]]):
        alone, together = (
            " / ".join(f"{cell[which]['estimates'][key]:.4f}"[1:] for key in METRICS)
            for which in ("without", "with")
        )
        low, high = (f"{x:.4f}"[1:] for x in cell["with"]["intervals"][METRICS[0]])
        star = "" if cell["stop"] == "converged" else "*"
        lines.append(
            f"| {name_of(cell)} | {cell['minutes']:g}{star} | {cell['epochs']} | {alone} | "
            f"{together} ({low} to {high}) |"
        )
    names = cells[0]["baselines"]
    counts = ", ".join(f"{name} {value:.4f}" for name, value in names.items())
    return "\n".join([*lines, "", f"Counted alone: {counts}."])


def by_log() -> dict[str, list[dict[str, Any]]]:
    """The best runs by validation of each log, at most four."""
    found: dict[str, list[dict[str, Any]]] = {}
    for cell in sorted(read(), key=lambda cell: -cell["validation"]):
        if len(found.setdefault(cell["log"], [])) < 4:
            found[cell["log"]].append(cell)
    return dict(sorted(found.items()))


def draw_lengths(figure: Any) -> None:
    """NDCG@10 of the best run by history length, without transitions and with them."""
    logs = by_log()
    for axes, (log, cells) in zip(
        figure.subplots(len(logs), 1, squeeze=False)[:, 0], logs.items(), strict=True
    ):
        best = cells[0]
        for shift, which, label in (
            (-0.2, "without", "network alone"),
            (0.2, "with", "with transitions"),
        ):
            values = [value for _, _, value in best[which]["buckets"]]
            places = [number + shift for number in range(len(values))]
            bars = axes.bar(places, values, 0.38, label=label, color=COLOURS[which == "with"])
            axes.bar_label(bars, [f"{value:.3f}"[1:] for value in values], fontsize=8)
        labels = [
            f"{label} events\n{targets:,} users" for label, targets, _ in best["with"]["buckets"]
        ]
        axes.set_xticks(range(len(labels)), labels)
        axes.set_title(f"{log}: {name_of(best).replace('`', '')}")
        axes.set_ylabel("test NDCG@10, as served")
        axes.legend(loc="best")


def draw_minutes(figure: Any) -> None:
    """Validation NDCG@10 of networks alone by minutes of training."""
    logs = by_log()
    for axes, (log, cells) in zip(
        figure.subplots(len(logs), 1, squeeze=False)[:, 0], logs.items(), strict=True
    ):
        for number, cell in enumerate(cells):
            minutes, values = zip(*((s / 60, v) for s, v in cell["curve"]), strict=True)
            style = {
                "color": COLOURS[number],
                "marker": MARKERS[number],
                "linestyle": LINES[number],
            }
            axes.plot(minutes, values, label=name_of(cell).replace("`", ""), **style)
        axes.set_title(log)
        axes.set_xlabel("minutes of one core")
        axes.set_ylabel("validation NDCG@10, network alone")
        axes.legend(loc="lower right")


if __name__ == "__main__":
    main(*sys.argv[1:])
