"""Train a longrec model as `longrec train` does, and print targets per second.

    python benchmarks/peers/steps.py HISTORIES elastic --seconds 60 --set batch_tokens=4000

The loop is longrec's own, with its data, optimiser, moving average and checkpoints; validation is
left out. Prints a line of JSON, with the keys of rectools/train.py.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import longrec
from longrec.core.memory import peak_bytes, resident_bytes
from longrec.models.common.settings import parse_assignments
from longrec.runs.carry_out import carry_out
from longrec.runs.folder import make_plan
from longrec.training.progress import Report

WARM = 20
"""Steps that are not timed."""
MIB = 2**20


class Enough(Exception):
    """The time is up."""


class Watch:
    """What training is told to tell: counts targets and seconds after the first steps."""

    def __init__(self, seconds: float) -> None:
        self.limit = seconds
        self.resident_before, self.peak_before = resident_bytes() or 0, peak_bytes() or 0
        # Seconds, CPU seconds, steps and targets.
        self.first = self.last = (0.0, 0.0, 0, 0)

    def __call__(self, report: Report) -> None:
        place = report.status
        now = (time.perf_counter(), time.process_time(), place.total_steps, place.loss_events)
        # There may be reports without a step: each takes the place of the one before.
        if place.total_steps <= WARM:
            self.first = now
        self.last = now
        if now[0] - self.first[0] > self.limit:
            raise Enough

    def told(self) -> dict[str, Any]:
        """Targets, seconds and memory."""
        spent = zip(self.last, self.first, strict=True)
        seconds, cpu, steps, targets = (now - then for now, then in spent)
        return {
            "steps": steps,
            "seconds": seconds,
            "cpu_seconds": cpu,
            "targets": targets,
            "targets_per_second": targets / seconds,
            "before_mib": self.resident_before / MIB,
            "before_peak_mib": self.peak_before / MIB,
            "peak_mib": (peak_bytes() or 0) / MIB,
        }


def main() -> None:
    """Train for a while and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("histories", type=Path, help="what `longrec prepare` gave")
    parser.add_argument("model")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    settings = parse_assignments(given.set)
    untold = {"max_epochs": 100_000, "validate_every": 100_000}
    histories, watch = longrec.open_histories(given.histories), Watch(given.seconds)
    with tempfile.TemporaryDirectory() as folder, suppress(Enough):
        plan = make_plan(histories, given.model, untold | settings, None)
        carry_out(histories, plan, None, Path(folder), False, "auto", watch, None)
    about = {"system": "longrec", "model": given.model, "version": version("longrec")}
    setting = {"settings": settings, "threads": given.threads}
    print(json.dumps(about | setting | watch.told()))


if __name__ == "__main__":
    main()
