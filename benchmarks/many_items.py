"""Train a model over a large catalog: microseconds per target, peak memory, and validation.

    taskset -c 0 python benchmarks/many_items.py FOLDER [--items 3400,100000,1000000,3000000]

Every size has a process of its own, on one thread; FOLDER gets made-up histories of 100 events, in
which every item stands at least once and the others by popularity, and is left as it was found but
for those. Prints, per size: the median time of a training step per target, what of the process is
resident at most while training, while writing a checkpoint and while validating (in MiB), the size
of the item table beside it, and the seconds of a checkpoint and of a validation.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import polars as pl
import torch

import longrec
from longrec.config.training import TrainConfig
from longrec.data.catalog import Catalog
from longrec.data.histories import Histories
from longrec.data.splits import make_split
from longrec.data.write import write_histories
from longrec.models import MODELS, build_model
from longrec.training import fit as fitting
from longrec.training.progress import Report

EVENTS = 100
WARM_UP = 5
"""Steps that are not timed."""
HEAD = f"{'items':>9}  {'loss':>7}  {'us/target':>9}  {'table':>6}  {'train':>6}  {'save':>6}  "
HEAD += f"{'valid.':>6}  {'save s':>6}  {'validation s':>12}"
LINE = "{items:>9,}  {loss:>7}  {us:>9.1f}  {table:>6,.0f}  {train:>6,.0f}  {save:>6,.0f}  "
LINE += "{validation:>6,.0f}  {save_s:>6.1f}  {validation_s:>12.1f}"


def made_up_histories(folder: Path, n_items: int) -> Histories:
    """Histories over a catalog of this size, made once."""
    path = folder / f"histories-{n_items}"
    if path.exists():
        return longrec.open_histories(path)
    rng = np.random.default_rng(0)
    users = max(20_000, -(-2 * n_items // EVENTS))
    cumulative = np.cumsum(1 / np.arange(1, n_items + 1) ** 0.8)
    drawn = rng.random(users * EVENTS - n_items) * cumulative[-1]
    items = np.concatenate([np.arange(1, n_items + 1), np.searchsorted(cumulative, drawn) + 1])
    rng.shuffle(items)
    counts = np.bincount(items, minlength=n_items + 1)[1:].astype(np.int64)
    return write_histories(
        path,
        user_ids=pl.Series(np.arange(users)),
        offsets=np.arange(users + 1) * EVENTS,
        items=items.astype(np.int32),
        times=np.tile(np.arange(EVENTS) * 60, users),
        catalog=Catalog(pl.Series(np.arange(n_items)), counts),
        source="made up",
        time_unit="s",
    )


class Peak:
    """The most memory resident since the last look, in MiB; Linux only."""

    def look(self) -> float:
        """Tell it, and begin again."""
        lines = Path("/proc/self/status").read_text().splitlines()
        peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
        Path("/proc/self/clear_refs").write_text("5")
        return peak / 1024


class Steps:
    """Takes the time of training steps, and tells when they are enough."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.taken, self.last = seconds, [], (0.0, 0)
        self.ends: float | None = None

    def __call__(self, report: Report) -> None:
        now, targets = time.process_time(), report.status.loss_events
        if targets > self.last[1] > 0 and report.status.total_steps > WARM_UP:
            self.taken.append((now - self.last[0]) / (targets - self.last[1]))
        if report.status.total_steps == WARM_UP:
            self.ends = now + self.seconds
        if self.ends is not None and now > self.ends:
            raise Enough
        self.last = time.process_time(), targets


class Enough(Exception):
    """Training has been timed for long enough."""


def measure(asked: argparse.Namespace, n_items: int) -> dict[str, float | int | str]:
    """Train, write a checkpoint and validate, in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    histories = longrec.open_histories(asked.folder / f"histories-{n_items}")
    config = TrainConfig(
        loss=asked.loss, batch_tokens=asked.batch_tokens, validation_users=asked.users
    )
    name = asked.model
    model = build_model(name, MODELS[name].config_class(), n_items)
    split = make_split(config.protocol, histories, config.cut)
    steps, peak = Steps(asked.seconds), Peak()
    data = fitting.training_data(model, histories, split, config)
    found: dict[str, float | int | str] = {"items": n_items, "loss": asked.loss}
    found["table"] = model.items.numel() * 4 / 2**20
    with tempfile.TemporaryDirectory(dir=asked.folder) as run:
        fitted = fitting._Fit(model, data, split, config, Path(run), steps)
        with suppress(Enough):
            fitted.run_epoch(time.perf_counter())
        fitted.show = None
        found |= {"us": 1e6 * statistics.median(steps.taken), "train": peak.look()}
        for what, do in (
            ("validation", lambda: fitted.validate(time.perf_counter())),
            ("save", fitted.save),
        ):
            began = time.process_time()
            do()
            found |= {f"{what}_s": time.process_time() - began, what: peak.look()}
    return found


def main() -> None:
    """Measure every size in a process of its own, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--items", default="3400,100000,1000000,3000000")
    parser.add_argument("--loss", default="sampled")
    parser.add_argument("--model", default="elastic")
    parser.add_argument("--batch-tokens", type=int, default=2000)
    parser.add_argument("--users", type=int, default=1000, help="users that a validation ranks")
    parser.add_argument("--seconds", type=float, default=10.0, help="of training that is timed")
    parser.add_argument("--one", type=int, help="measure this size here, and print JSON")
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measure(asked, asked.one)))
        return
    print(HEAD)
    for n_items in map(int, asked.items.split(",")):
        asked.folder.mkdir(parents=True, exist_ok=True)
        made_up_histories(asked.folder, n_items)
        command = [sys.executable, __file__, *sys.argv[1:], "--one", str(n_items)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        print(LINE.format(**json.loads(done.stdout)), flush=True)


if __name__ == "__main__":
    main()
