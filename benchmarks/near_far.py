"""Compare models on simulated histories whose evidence is near or far, beside what is attainable.

    python benchmarks/near_far.py OUT [--budget MINUTES] [--models a,b,c] [--only near]

Each setting gets a folder of `longrec compare`, which goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from longrec.comparison.compare import compare
from longrec.data.histories import open_histories
from longrec.simulator.simulate import SimulationConfig, simulate
from longrec_bench.zoo.logs import SIMULATED, bounds_of

MODELS = (
    "elastic,elastic:memory_slots=256,elastic:memory_slots=4096,elastic:memory_slots=65536,"
    "elastic-paper,elastic-paper:memory_guard=false,elastic-paper:memory_slots=0,"
    "hydrarec,hydrarec-bidirectional,bert4rec,sasrec"
)
# A minute has few steps: a higher rate and a quicker average make the most of them.
TRAINING: dict[str, Any] = {"learning_rate": 2e-3, "average": 0.99}


def main() -> None:
    """Simulate, compare, and leave a report per setting."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--budget", type=float, default=1.0)
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--only", choices=list(SIMULATED))
    given = parser.parse_args()
    for name, settings in SIMULATED.items():
        if given.only in (None, name):
            one(name, settings, given.out, given.models, given.budget)


def one(name: str, settings: dict[str, Any], out: Path, models: str, budget: float) -> None:
    """Compare on one setting."""
    simulation = simulate(SimulationConfig(**settings))
    folder = out / f"{name}-histories"
    histories = open_histories(folder) if folder.exists() else simulation.to_histories(folder)
    bounds = bounds_of(simulation, histories)
    compare(histories, models, budget, out / name, bounds=bounds, progress=True, settings=TRAINING)


if __name__ == "__main__":
    main()
