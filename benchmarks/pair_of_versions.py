"""What a pair, `observe` then `recommend`, costs with the code of two checkouts, in turns.

    python benchmarks/pair_of_versions.py OTHER/src [redis://localhost:6379/0]

Children with the code of either take turns on the same machine, each with a store of its own; its
figure is the median of its pairs. Wall and processor time of the process, in microseconds, and
with Redis the processor time of the server. The store is LMDB in a temporary folder, or a Redis
server of its own, which is filled.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

CHILD = """
import json, sys, time
import numpy as np, polars as pl, torch
from longrec.data.catalog import Catalog
from longrec.models import MODELS
from longrec.recommender import Recommender
from longrec.config.training import TrainConfig

torch.set_num_threads(1)
torch.manual_seed(0)
url, durability, pairs = sys.argv[1], sys.argv[2], int(sys.argv[3])
model = MODELS["elastic"](MODELS["elastic"].config_class(), 3400).eval()
catalog = Catalog(pl.Series(np.arange(1, 3401)), np.arange(3400, dtype=np.int64))
rec = Recommender("elastic", model, model.config, TrainConfig(), catalog)
found = {"wall": [], "processor": []}
with rec.open_stream(url, durability) as stream:
    for user in range(20):
        for n in range(10):
            stream.observe(user, 1 + (user * 31 + n * 17) % 3400, n, f"{user}-{n}")
    client = getattr(stream.store, "_client", None)
    def server():
        if client is None:
            return 0.0
        lines = client.command("INFO", "cpu").decode().split()
        figures = dict(line.split(":") for line in lines if ":" in line)
        return float(figures["used_cpu_user"]) + float(figures["used_cpu_sys"])
    begin = server()
    for n in range(pairs):
        user = n % 20
        wall, processor = time.perf_counter(), time.process_time()
        stream.observe(user, 1 + n * 7 % 3400, 100 + n, f"e{n}")
        stream.recommend(user, 10)
        found["wall"].append(time.perf_counter() - wall)
        found["processor"].append(time.process_time() - processor)
    spent = server() - begin
result = {name: 1e6 * sorted(values)[len(values) // 2] for name, values in found.items()}
print(json.dumps(result | {"server": 1e6 * spent / pairs}))
"""


def run(src: str, url: str, durability: str, pairs: int) -> dict[str, float]:
    """The figures of one child."""
    env = os.environ | {"PYTHONPATH": src, "OMP_NUM_THREADS": "1", "XDG_STATE_HOME": STATE}
    command = [sys.executable, "-c", CHILD, url, durability, str(pairs)]
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", help="the src folder of the other checkout")
    parser.add_argument("url", nargs="?", help="of a Redis server; else LMDB")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=1500)
    parser.add_argument("--durability", default="process")
    asked = parser.parse_args()
    here = str(Path(__file__).resolve().parents[1] / "src")
    found: dict[str, list[dict[str, float]]] = {"before": [], "after": []}
    for number in range(asked.rounds):
        turns = [("before", asked.other), ("after", here)]
        for name, src in turns if number % 2 else turns[::-1]:
            with tempfile.TemporaryDirectory() as folder:
                url = f"lmdb://{folder}/store"
                if asked.url:
                    url = f"{asked.url}?prefix=pair{os.getpid()}:{name}{number}:"
                found[name].append(run(src, url, asked.durability, asked.pairs))
    for figure in ("wall", "processor", "server"):
        values = {
            name: [one[figure] for one in some if one[figure]] for name, some in found.items()
        }
        if not values["before"]:
            continue
        before, after = (statistics.median(values[name]) for name in ("before", "after"))
        ratios = sorted(a / b for a, b in zip(values["after"], values["before"], strict=True))
        middle = statistics.median(ratios)
        print(
            f"{figure}: {before:.0f} us before, {after:.0f} us after, ratio of pairs of children "
            f"{middle:.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"
        )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as STATE:
        main()
