"""Where the time of a training step over a large catalog goes, and what an epoch of them takes.

    python benchmarks/xlong_steps.py HISTORIES MODEL [KEY=VALUE ...] [--steps 200]

Trains for some steps with the settings of `benchmarks/xlong.py`, then writes a checkpoint, and
prints JSON: seconds of processor time per step in each part, targets of a step, steps of an epoch,
the seconds of an epoch at this pace (steps differ in length, so that this is an extrapolation), of
the start (counts of items, copies of tables) and of a checkpoint, and the resident MiB at most.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import longrec
from longrec.core.memory import keep_freed_memory, peak_bytes
from longrec.data.batches import Epoch
from longrec.data.splits import make_split
from longrec.models import SequenceModel, build_model
from longrec.models.common.settings import parse_settings
from longrec.training import fit as fitting
from xlong import TRAINING

WARM_UP = 20
"""Steps that are not timed."""


class Parts:
    """Processor seconds by part of a step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, whose time is counted under a name."""

        def call(*values: Any, **named: Any) -> Any:
            began = time.process_time()
            try:
                return function(*values, **named)
            finally:
                self.seconds[name] += time.process_time() - began

        return call


def measure(path: Path, name: str, words: list[str], steps: int) -> dict[str, Any]:
    """Train for some steps in this process."""
    torch.manual_seed(0)
    keep_freed_memory()
    settings = dict(word.split("=", 1) for word in (*TRAINING, *words))
    histories, parts = longrec.open_histories(path), Parts()
    model_config, config = parse_settings(name, settings)
    split = make_split(config.protocol, histories, config.cut)
    began = time.process_time()
    model = build_model(name, model_config, histories.n_items)
    assert isinstance(model, SequenceModel)
    data = fitting.training_data(model, histories, split, config)
    with tempfile.TemporaryDirectory(dir=path.parent) as run:
        fit = fitting._Fit(model, data, split, config, Path(run))
        start = time.process_time() - began
        epoch = data.epoch(0)
        model.train()
        watch(fit, parts)
        targets = events = 0
        for step in range(WARM_UP + steps):
            if step == WARM_UP:
                parts.seconds.clear()
                targets, began = 0, time.process_time()
            batch = parts.timed("batch", Epoch.batch)(epoch, step % len(epoch))
            targets += fit.step(batch)[1]
            events += int(batch.lengths.sum())
            fit.status.step, fit.status.total_steps = step + 1, step + 1
        each = (time.process_time() - began) / steps
        training = peak_bytes()
        began = time.process_time()
        fit.save()
        fit.writer.wait()
        checkpoint = time.process_time() - began
    found = {part: seconds / steps for part, seconds in sorted(parts.seconds.items())}
    found["other"] = each - sum(found.values())
    return {
        "step_ms": 1e3 * each,
        **{f"{part}_ms": 1e3 * seconds for part, seconds in found.items()},
        "targets": targets / steps,
        "us_per_target": 1e6 * each * steps / targets,
        "epoch_steps": len(epoch),
        "epoch_targets": data.targets_per_epoch,
        "epoch_seconds": each * steps / targets * data.targets_per_epoch,
        "start_seconds": start,
        "checkpoint_seconds": checkpoint,
        "training_mib": (training or 0) / 2**20,
        "peak_mib": (peak_bytes() or 0) / 2**20,
    }


def watch(fit: fitting._Fit, parts: Parts) -> None:
    """Count the time of a step's parts."""
    optimiser = fit.optimiser
    for owner, method, part in (
        (optimiser, "read", "refresh"),
        (optimiser, "_clip", "clip"),
        (optimiser.adam, "step", "adam"),
        (fit.reader, "read", "encode"),
        *((rows, "step", "rows") for rows in optimiser.rows.values()),
    ):
        setattr(owner, method, parts.timed(part, getattr(owner, method)))
    fit.objective = fit.objective._replace(
        draw=parts.timed("draw", fit.objective.draw), loss=parts.timed("loss", fit.objective.loss)
    )
    torch.Tensor.backward = parts.timed("backward", torch.Tensor.backward)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("histories", type=Path)
    parser.add_argument("model")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--steps", type=int, default=200)
    given = parser.parse_args()
    found = measure(given.histories, given.model, given.settings, given.steps)
    print(json.dumps({name: round(x, 2) for name, x in found.items()}, indent=1))


if __name__ == "__main__":
    main()
