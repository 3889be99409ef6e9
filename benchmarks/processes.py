"""What several processes that train one model bring on this machine, and what they send.

    python benchmarks/processes.py FOLDER --processes 1 2 --loss full
    python benchmarks/processes.py FOLDER --processes 1 2 --loss sampled --items 300000

Each number of processes trains the same model on the same made-up walks with the same batches, one
thread per process, and its steps after the first ten are measured: seconds that passed, seconds of
the processor in the busiest process, both per step, and bytes that it gave to others. On a machine
that computes nothing else the first tells the gain; where others compute, the second tells what is
left to each process and what taking part costs it, waiting left out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import distributed as dist

from longrec.config.training import TrainConfig
from longrec.data.catalog import Catalog
from longrec.data.histories import open_histories
from longrec.data.splits import make_split
from longrec.data.write import write_histories
from longrec.models import MODELS, build_model
from longrec.training import fit as fitting
from longrec.training.processes import joined, meeting_place

WARM = 10
sent = 0


def make_histories(path: Path, users: int, items: int, events: int) -> None:
    """Walks over popular items, so many events of each user."""
    random = np.random.default_rng(0)
    drawn = (items * random.random(users * events) ** 3).astype(np.int32) + 1
    write_histories(
        path,
        user_ids=pl.Series([f"user{n:07d}" for n in range(users)]),
        offsets=np.arange(users + 1) * events,
        items=drawn,
        times=None,
        catalog=Catalog(
            pl.Series(np.arange(items)), np.bincount(drawn, minlength=items + 1)[1:].astype("i8")
        ),
        source="made up",
        time_unit=None,
    )


def histories_of(args: argparse.Namespace) -> Path:
    return Path(args.folder, f"histories-{args.users}-{args.items}-{args.events}")


def count_bytes() -> None:
    """Count what the calls of torch.distributed give to others, in `sent`."""

    def counted(name: str, share: Any) -> None:
        call = getattr(dist, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            global sent
            sent += int(share(args))
            return call(*args, **kwargs)

        setattr(dist, name, wrapped)

    number = dist.get_world_size()
    # A ring gives 2 (N - 1) / N of what is summed.
    counted("all_reduce", lambda a: 2 * (number - 1) / number * a[0].nbytes)
    counted("all_gather", lambda a: (number - 1) * a[1].nbytes)
    counted("all_to_all_single", lambda a: (number - 1) / number * a[1].nbytes)


def train(args: argparse.Namespace) -> None:
    """Train in this process and those that it has been started with."""
    torch.set_num_threads(1)
    with joined() as processes:
        if processes.number > 1:
            count_bytes()
        histories = open_histories(histories_of(args))
        torch.manual_seed(0)
        settings = {"dim": args.dim, "ffn_dim": 4 * args.dim, "dropout": 0.0}
        model = build_model(
            args.model, MODELS[args.model].config_class(**settings), histories.n_items
        )
        config = TrainConfig(
            max_epochs=1, batch_tokens=args.batch_tokens, loss=args.loss, validation_users=1
        )
        times = []

        def look(report: Any) -> None:
            if report.validating is None:
                times.append((time.perf_counter(), time.process_time(), sent))
                if len(times) == WARM + args.steps:
                    raise KeyboardInterrupt

        run = args.folder / "run"
        run.mkdir(exist_ok=True)
        split = make_split(config.protocol, histories)
        with suppress(KeyboardInterrupt):
            fitting.fit(model, histories, split, config, run, show=look)
        span = np.subtract(times[-1], times[WARM - 1]) / (len(times) - WARM)
        path = args.folder / f"{processes.number}-{processes.rank}.json"
        path.write_text(json.dumps(span.tolist()))


def measure(args: argparse.Namespace, number: int) -> list[float]:
    """Seconds, of the processor at most, and bytes given, all per step."""
    store, shared = meeting_place(number)
    words = [sys.executable, __file__, *sys.argv[1:], "--child"]
    children = [
        subprocess.Popen(
            words, env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        )
        for rank in range(number)
    ]
    statuses = [child.wait() for child in children]
    if any(statuses):
        sys.exit("a process failed")
    del store
    spans = [
        json.loads((args.folder / f"{number}-{rank}.json").read_text()) for rank in range(number)
    ]
    return np.max(spans, axis=0).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--model", default="elastic")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--loss", default="full")
    parser.add_argument("--items", type=int, default=3400)
    parser.add_argument("--users", type=int, default=4000)
    parser.add_argument("--events", type=int, default=130)
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        train(args)
        return
    args.folder.mkdir(parents=True, exist_ok=True)
    if not histories_of(args).exists():
        make_histories(histories_of(args), args.users, args.items, args.events)
    print("processes  s per step  of the processor  MiB given")
    for number in args.processes:
        seconds, processor, given = measure(args, number)
        print(f"{number:9}  {seconds:10.3f}  {processor:16.3f}  {given / 2**20:9.2f}", flush=True)


if __name__ == "__main__":
    main()
