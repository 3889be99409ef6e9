"""Time the parts of a training step on one thread, in microseconds per target.

    python benchmarks/step.py HISTORIES [model] [key=value ...]

Takes the first 60 batches of an epoch, 10 more before them to warm up.
"""

from __future__ import annotations

import sys
import time

import torch

from longrec.data.batches import TrainingData
from longrec.data.histories import open_histories
from longrec.data.splits import make_split
from longrec.losses import full_cross_entropy
from longrec.mixers import Context
from longrec.models import SequenceModel, build_model
from longrec.settings import parse_assignments, parse_settings

WARM, TIMED = 10, 60


def main(path: str, name: str = "elastic", *settings: str) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    histories = open_histories(path)
    model_config, config = parse_settings(name, parse_assignments(list(settings)))
    model = build_model(name, model_config, histories.n_items).train()
    assert isinstance(model, SequenceModel)
    split = make_split(config.split, histories)
    longest = int(histories.lengths.max())
    data = TrainingData(
        histories, split.train_end, model.max_length, longest, config.batch_tokens, config.seed
    )
    epoch = data.epoch(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    spent = dict.fromkeys(("batch", "encode", "loss", "backward", "optimiser"), 0.0)
    targets = 0
    for number in range(min(WARM + TIMED, len(epoch))):
        clock = [time.perf_counter()]
        batch = epoch.batch(number)
        clock.append(time.perf_counter())
        h = model.encode(batch.items, Context(lengths=batch.lengths, times=batch.times))
        clock.append(time.perf_counter())
        real = batch.targets > 0
        loss = full_cross_entropy(h[real], model.item_vectors(), batch.targets[real])
        clock.append(time.perf_counter())
        optimizer.zero_grad()
        loss.backward()
        clock.append(time.perf_counter())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        clock.append(time.perf_counter())
        if number >= WARM:
            targets += int(real.sum())
            for part, began, ended in zip(spent, clock[:-1], clock[1:], strict=True):
                spent[part] += ended - began
    for part, seconds in spent.items():
        print(f"{part:10} {1e6 * seconds / targets:8.2f}")
    print(f"{'sum':10} {1e6 * sum(spent.values()) / targets:8.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
