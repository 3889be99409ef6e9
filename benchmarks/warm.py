"""A warm start on a simulated log with many new items, beside training from scratch.

    python benchmarks/warm.py

The log is cut in time: a model is trained on the first 60% of its events, the rest is put behind
them, and training goes on for a few epochs or begins anew for as many as the old model had.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import polars as pl
import torch

import longrec
from longrec.simulator.simulate import SimulationConfig, simulate

SIMULATION = SimulationConfig(users=800, new_items=0.8, zipf=0.6, mean_length=160, seed=3)
TRAINING: dict[str, Any] = {"learning_rate": 2e-3, "average": 0.99, "patience": 4}
OLD_SHARE, WARM_EPOCHS, EPOCHS = 0.6, 4, 14


def told(name: str, run: longrec.Recommender) -> str:
    """A line of the table: what a training took and reached on the same validation targets."""
    training = run.provenance["training"]
    reached = training["validation"]["served/ndcg@10"]
    return f"| {name} | {training['epochs']} | {training['seconds']:.0f} | {reached:.4f} |"


def main() -> None:
    """Train, and print a Markdown table and the gain."""
    torch.set_num_threads(1)
    events = simulate(SIMULATION).events
    cut = events["time"].quantile(OLD_SHARE)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        old = longrec.prepare(events.filter(pl.col("time") < cut), folder / "old")
        both = longrec.prepare(
            events.filter(pl.col("time") >= cut), folder / "both", extend=folder / "old"
        )
        print(f"{old.n_items} items before, {both.n_items} after; {both.n_events:,} events in all")
        first = longrec.train(old, "elastic", folder / "run", max_epochs=EPOCHS, **TRAINING)
        warm = longrec.train(both, warm_start=first, max_epochs=WARM_EPOCHS)
        scratch = longrec.train(both, "elastic", max_epochs=EPOCHS, **TRAINING)
        print("| training on all events | epochs | seconds | validation NDCG@10 |")
        print("|---|---|---|---|")
        print(told("warm start", warm))
        print(told("from scratch", scratch))
        print(warm.provenance["warm_start"]["gain"])


if __name__ == "__main__":
    main()
