"""Training throughput of RecTools' SASRec and of longrec, taking turns on the same cores.

    python benchmarks/peers/throughput.py HISTORIES LOG --rectools-python VENV/bin/python --core 0

HISTORIES and LOG are the same log, prepared by longrec and as Parquet. Every cell is a process of
its own; no two run at once, and every repeat goes through all cells. Prints targets per
second and per CPU second (where others use the cores too, the fairer measure), their ratio to those
of RecTools' best batch, and peak memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PEER = "RecTools"
MODELS = ("elastic", "sasrec", "elastic,context=200")


def cells(given: argparse.Namespace) -> dict[str, list[str]]:
    """What each cell is called, and its command."""
    threads = ["--threads", str(given.threads)]
    timed = ["--throughput", "1000000", "--minutes", str(given.seconds / 60)]
    columns = ["--user", given.user, "--item", given.item, "--order", given.order]
    peer = [str(given.rectools_python), str(HERE / "rectools" / "train.py"), str(given.log)]
    found = {
        f"{PEER} SASRec, batch {batch}": [
            *peer,
            *columns,
            *threads,
            *timed,
            "--batch",
            str(batch),
        ]
        for batch in given.batches
    }
    own = [sys.executable, str(HERE / "steps.py"), str(given.histories)]
    for case in given.models:
        model, *settings = case.split(",")
        chosen = [word for setting in settings for word in ("--set", setting)]
        seconds = ["--seconds", str(given.seconds)]
        found[f"longrec {case}"] = [*own, model, *chosen, *threads, *seconds]
    return found


def run(command: list[str], given: argparse.Namespace) -> dict[str, Any]:
    """The line of JSON that a cell's process prints last."""
    if given.core:
        command = ["taskset", "-c", ",".join(map(str, given.core)), *command]
    environment = os.environ | {"OMP_NUM_THREADS": str(given.threads)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """One row per cell: medians over repeats, with the slowest and the fastest of them."""

    def rates(name: str, seconds: str) -> list[float]:
        return sorted(one["targets"] / one[seconds] for one in found[name])

    def best(seconds: str) -> float:
        peers = (name for name in found if name.startswith(PEER))
        return max(statistics.median(rates(name, seconds)) for name in peers)

    lines = [
        "| training | targets per second | ratio | per CPU second | ratio "
        "| peak MiB | MiB before training |",
        "|---" * 7 + "|",
    ]
    for name, repeats in found.items():
        row = [name]
        for seconds in ("seconds", "cpu_seconds"):
            those = rates(name, seconds)
            median = statistics.median(those)
            spread = f"{median:,.0f} ({those[0]:,.0f} to {those[-1]:,.0f})"
            row += [spread, f"{median / best(seconds):.2f}"]
        for memory in ("peak_mib", "before_mib"):
            row.append(f"{max(one[memory] for one in repeats):,.0f}")
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("histories", type=Path, help="what `longrec prepare` gave")
    parser.add_argument("log", type=Path, help="the same log in Parquet")
    parser.add_argument("--user", default="user_id", help="the log's column of users")
    parser.add_argument("--item", default="item_id", help="the log's column of items")
    parser.add_argument("--order", default="position", help="its column that sorts events")
    parser.add_argument("--rectools-python", type=Path, required=True, help="of its environment")
    parser.add_argument("--batches", nargs="+", type=int, default=[32, 128], help="RecTools'")
    parser.add_argument(
        "--models",
        nargs="+",
        default=list(MODELS),
        metavar="MODEL[,KEY=VALUE...]",
        help="longrec's",
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="of training in every cell")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--core", nargs="+", type=int, help="cores to stay on (needs taskset)")
    parser.add_argument("--out", type=Path, help="every repeat of every cell as JSON")
    given = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {}
    for repeat in range(given.repeats):
        for name, command in cells(given).items():
            one = run(command, given)
            found.setdefault(name, []).append(one)
            rate = f"{one['targets_per_second']:,.0f} targets/s"
            print(f"repeat {repeat + 1}, {name}: {rate}", file=sys.stderr)
    if given.out is not None:
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
