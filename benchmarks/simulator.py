"""NDCG@10 (unfiltered, test targets) that is attainable on simulations, beside the baselines.

python benchmarks/simulator.py
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from longrec.data.splits import leave_one_out
from longrec.evaluation.metrics import summarise
from longrec.runs.evaluate import evaluate
from longrec.runs.train import train
from longrec.simulator.ceiling import ceiling
from longrec.simulator.simulate import SimulationConfig, simulate

CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "near": {"evidence_distance": 0},
    "far": {"evidence_distance": 300, "mean_length": 600},
    "recall": {"regime": "recall"},
    "order": {"regime": "order"},
}
BOUNDS: tuple[dict[str, Any], ...] = ({}, {"window": 50}, {"latent": True})


def main() -> None:
    """Measure and print one line per configuration."""
    print("configuration | events | ceiling | window 50 | latent oracle | last-item | popularity |")
    for name, settings in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            clock = time.process_time()
            simulation = simulate(SimulationConfig(**settings))
            spent = [time.process_time() - clock]
            histories = simulation.to_histories(Path(folder) / "histories")
            targets = leave_one_out(histories).test
            values = []
            for options in BOUNDS:
                clock = time.process_time()
                ranks = ceiling(simulation, histories, targets, **options)["rank_unfiltered"]
                spent.append(time.process_time() - clock)
                values.append(summarise(ranks.to_numpy())["ndcg@10"])
            for model in ("last-item", "popularity"):
                metrics = evaluate(train(histories, model, progress=False), histories)
                values.append(metrics["unfiltered/ndcg@10"])
        shown = " | ".join(f"{value:.3f}" for value in values)
        times = ", ".join(f"{seconds:.1f}" for seconds in spent)
        print(f"{name} | {histories.n_events:,} | {shown} | processor seconds: {times}")


if __name__ == "__main__":
    main()
