"""What several processes that train one model bring on this machine, and what they send.

    python benchmarks/processes.py FOLDER --processes 1 2 --loss full
    python benchmarks/processes.py FOLDER --processes 1 2 --loss sampled --items 300000
    python benchmarks/processes.py FOLDER --processes 2 --against ddp fsdp2

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
import socket
import struct
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from longrec.config.training import TrainConfig
from longrec.data.catalog import Catalog
from longrec.data.histories import open_histories
from longrec.data.splits import make_split
from longrec.data.write import write_histories
from longrec.models import MODELS, build_model
from longrec.training import fit as fitting
from longrec.training.meeting import joined, meeting_place

WARM = 10
ACKED = struct.Struct("=120xQ")
"""The bytes that a connection's other end has got, in the system's `tcp_info`."""


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


def given() -> int:
    """Bytes that this process has given to others by TCP, as the system counts them (Linux)."""
    found = 0
    for file in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # it is closed by now, or no connection
            if os.readlink(file).startswith("socket:"):
                with socket.socket(fileno=os.dup(int(file.name))) as one:
                    info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, ACKED.size)
                    found += ACKED.unpack(info)[0]
    return found


def train(args: argparse.Namespace) -> None:
    """Train in this process and those that it has been started with."""
    torch.set_num_threads(1)
    with joined() as processes:
        histories = open_histories(histories_of(args))
        torch.manual_seed(0)
        settings = {"dim": args.dim, "ffn_dim": 4 * args.dim, "dropout": 0.0}
        model = build_model(
            args.model, MODELS[args.model].config_class(**settings), histories.n_items
        )
        config = TrainConfig(
            max_epochs=1, batch_tokens=args.batch_tokens, loss=args.loss, validation_users=1
        )
        times, losses = [], []

        def look(report: Any) -> None:
            if report.validating is None:
                losses.append(report.loss)
                times.append((time.perf_counter(), time.process_time(), given()))
                if len(times) == WARM + args.steps:
                    raise KeyboardInterrupt

        run = args.folder / "run"
        run.mkdir(exist_ok=True)
        if args.by != "ours":
            from wrapped_steps import WRAPPED

            fitting._Fit = WRAPPED[args.by]
        split = make_split(config.protocol, histories)
        with suppress(KeyboardInterrupt):
            fitting.fit(model, histories, split, config, run, show=look)
        span = np.subtract(times[-1], times[WARM - 1]) / (len(times) - WARM)
        path = args.folder / f"{processes.number}-{processes.rank}.json"
        path.write_text(json.dumps([span.tolist(), losses]))


def measure(args: argparse.Namespace, number: int, by: str) -> tuple[list[float], list[float]]:
    """Seconds, of the processor at most, and bytes given, all per step; and the steps' losses."""
    store, shared = meeting_place(number)
    words = [sys.executable, __file__, *sys.argv[1:], "--child", "--by", by]
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
    found = [
        json.loads((args.folder / f"{number}-{rank}.json").read_text()) for rank in range(number)
    ]
    return np.max([span for span, _ in found], axis=0).tolist(), found[0][1]


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
    parser.add_argument(
        "--against", nargs="+", default=[], choices=["ddp", "fsdp2"], help="torch's own wrappers"
    )
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--by", default="ours", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.against and args.loss != "full":
        parser.error("torch's wrappers sum dense gradients: --against goes with --loss full")
    if args.child:
        train(args)
        return
    args.folder.mkdir(parents=True, exist_ok=True)
    if not histories_of(args).exists():
        make_histories(histories_of(args), args.users, args.items, args.events)
    print("processes  sums by  s per step  of the processor  MiB given  losses differ by")
    first: list[float] = []
    for number in args.processes:
        for by in ["ours", *(args.against if number > 1 else [])]:
            (seconds, processor, sent), losses = measure(args, number, by)
            first = first or losses
            apart = np.abs(np.subtract(losses, first)).max()
            print(
                f"{number:9}  {by:7}  {seconds:10.3f}  {processor:16.3f}  {sent / 2**20:9.2f}  "
                f"{apart:.1e}",
                flush=True,
            )


if __name__ == "__main__":
    main()
