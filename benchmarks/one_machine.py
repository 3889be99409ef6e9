"""Memory of several processes of one machine that hold one run, and what sharing it costs.

    python benchmarks/one_machine.py FOLDER [--items 1000000] [--processes 3] [--other OTHER/src]

FOLDER gets a run of `elastic` with transitions, whose weights are drawn and not trained, if it has
none. Then 1, 2, 3 processes open it, each with a store of its own, and the last one recommends.
Printed are MiB of memory that the last one alone holds (`uss`), and all together (`pss`, what is
shared being counted once); seconds of the processor that the first and the last one take to open
it, and milliseconds of it for a recommendation, which a busy machine does not change as it does
those of a clock; and what the parts of the last one take. With `--other` the same with the code of
another checkout, the two in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil
import torch

from longrec.artifact.artifact import Artifact
from longrec.config.training import TrainConfig
from longrec.data.catalog import Catalog
from longrec.models import MODELS, build_model
from longrec.models.transitions import TransitionsScore

EVENTS, PER_ITEM = 100, 5
"""Events of a history that is counted, and of an item."""
CHILD = """
import json, sys, time
from pathlib import Path

import psutil, torch

run, store, kind, asked = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
torch.set_num_threads(1)
from longrec.artifact.artifact import Artifact
from longrec.retrieval.index_cache import open_index
from longrec.serving.stream.stream import Stream

def look(part):
    info = psutil.Process().memory_full_info()
    parts[part] = [info.uss / 2**20, info.pss / 2**20]

parts = {}
look("Python, PyTorch, longrec")
begun = time.process_time()
artifact = Artifact.load(Path(run))
look("recommender")
index = open_index(artifact, kind).index
look("index")
stream = Stream.open(artifact, store, "process", index=index)
opened = time.process_time() - begun
users = 20
for user in range(users):
    for number in range(10):
        item = artifact.catalog.ids[(user * 7919 + number * 104729) % artifact.catalog.n_items]
        stream.observe(user, item, number, f"{user}-{number}")
stream.recommend(0, 10)
look("store and stream")
taken = []
for number in range(asked):
    begun = time.process_time()
    stream.recommend(number % users, 10)
    taken.append(1e3 * (time.process_time() - begun))
taken.sort()
facts = {"opened": opened, "parts": parts}
if taken:
    facts |= {"p50": taken[len(taken) // 2], "p99": taken[len(taken) * 99 // 100]}
print(json.dumps(facts), flush=True)
sys.stdin.read()
stream.close()
"""


def made_run(folder: Path, items: int) -> Path:
    """A run of so many items, made once."""
    run = folder / f"run-{items}"
    if not run.exists():
        rng = np.random.default_rng(0)
        torch.manual_seed(0)
        users = max(1, items * PER_ITEM // EVENTS)
        drawn = torch.from_numpy((items * rng.random(users * EVENTS) ** 2).astype(np.int32) + 1)
        lengths = torch.full((users,), EVENTS)
        counts = np.bincount(drawn.numpy(), minlength=items + 1)[1:].astype(np.int64)
        config = MODELS["elastic"].config_class()
        Artifact(
            "elastic",
            build_model("elastic", config, items).eval(),
            config,
            TrainConfig(),
            Catalog(pl.Series(np.arange(items)), counts),
            added=TransitionsScore.of(drawn, lengths, items).eval(),
        ).save(run)
    return run


def measure(src: str, run: Path, kind: str, processes: int, asked: int) -> list[dict[str, Any]]:
    """Facts of processes that were opened one after the other, memory being that of the end."""
    env = os.environ | {"PYTHONPATH": src, "OMP_NUM_THREADS": "1"}
    facts, children = [], []
    with ExitStack() as stack:
        place = stack.enter_context(tempfile.TemporaryDirectory())
        for number in range(processes):
            command = [sys.executable, "-c", CHILD, str(run), f"lmdb://{place}/{number}", kind]
            child = stack.enter_context(
                subprocess.Popen(
                    [*command, str(asked if number == processes - 1 else 0)],
                    env=env | {"XDG_STATE_HOME": place},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
            )
            children.append(child)
            assert child.stdout is not None
            facts.append(json.loads(child.stdout.readline()))
        for child, fact in zip(children, facts, strict=True):
            info = psutil.Process(child.pid).memory_full_info()
            fact |= {"uss": info.uss / 2**20, "pss": info.pss / 2**20}
        for child in children:
            assert child.stdin is not None
            child.stdin.close()
            child.wait()
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--index", default="exact")
    parser.add_argument("--asked", type=int, default=400, help="recommendations that are timed")
    parser.add_argument("--other", help="the src folder of another checkout")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    run = made_run(asked.folder, asked.items)
    versions = {"this": str(Path(__file__).resolve().parents[1] / "src")}
    if asked.other is not None:
        versions = {"other": asked.other} | versions
    print("| code | processes | the last one's own | all | opening: first, last | p50, p99 |")
    print("|---|---|---|---|---|---|")
    parts: dict[str, Any] = {}
    for processes in range(1, asked.processes + 1):
        for name, src in versions.items():
            facts = measure(src, run, asked.index, processes, asked.asked)
            first, last = facts[0], facts[-1]
            parts[f"{name}, one of {processes}"] = last["parts"]
            print(
                f"| {name} | {processes} | {last['uss']:,.0f} | {sum(f['pss'] for f in facts):,.0f}"
                f" | {first['opened']:.1f} s, {last['opened']:.1f} s"
                f" | {last['p50']:.2f}, {last['p99']:.2f} ms |",
                flush=True,
            )
    print("\n| uss, pss after | " + " | ".join(next(iter(parts.values()))) + " |")
    for name, found in parts.items():
        print(f"| {name} | " + " | ".join(f"{a:,.0f}, {b:,.0f}" for a, b in found.values()) + " |")


if __name__ == "__main__":
    main()
