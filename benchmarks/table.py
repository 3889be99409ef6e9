"""Print a Markdown table of evaluated runs: every number from their own files.

    python benchmarks/table.py RUN [RUN ...]

Each RUN is a folder that `longrec train` and `longrec evaluate` wrote.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HEAD = (
    "| run | NDCG@10 | HR@10 | MRR@10 | unfiltered NDCG@10 / HR@10 | epochs, time | ended |",
    "|---|---|---|---|---|---|---|",
)


def row(run: Path) -> str:
    """One line of the table."""
    metrics = json.loads((run / "metrics.json").read_text())
    made = json.loads((run / "provenance.json").read_text())
    training = made["training"]
    cells = [run.name]
    for key in ("ndcg@10", "hr@10", "mrr@10"):
        low, high = _interval(metrics, key)
        cells.append(f"{metrics[key]:.4f} ({low:.4f} to {high:.4f})")
    bare = [metrics[f"unfiltered/{key}"] for key in ("ndcg@10", "hr@10")]
    cells.append(" / ".join(f"{value:.4f}" for value in bare))
    cells.append(f"{training['epochs']}, {training['seconds'] / 60:.0f} min")
    cells.append(
        training["stop"] if training["converged"] else f"{training['stop']}, not converged"
    )
    return "| " + " | ".join(cells) + " |"


def _interval(metrics: dict[str, Any], key: str) -> tuple[float, float]:
    low, high = metrics["intervals"][key]
    return low, high


def main() -> None:
    """Print the table of the runs named on the command line, then where they come from."""
    runs = [Path(name) for name in sys.argv[1:]]
    print("\n".join([*HEAD, *map(row, runs)]))
    for run in runs:
        made = json.loads((run / "provenance.json").read_text())
        machine = made["machine"]
        print(
            f"\n- {run.name}: `{made['command']}`, seed {made['seed']}, commit {made['commit']}, "
            f"{made['versions']['torch']}, {machine['processor']}, {machine['threads']} thread"
        )


if __name__ == "__main__":
    main()
