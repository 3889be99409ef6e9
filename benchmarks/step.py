"""Time the parts of a training step on one thread, in microseconds per target, beside floors.

    python benchmarks/step.py HISTORIES [model] [key=value ...]

Takes 60 batches of an epoch, after 10 more to warm up, and says the peak of resident memory. A
floor is the time of matrix products alone, at the best rates that this machine reached on large
ones a moment before, in the type that the part multiplies in.
"""

from __future__ import annotations

import copy
import resource
import sys
import time
from dataclasses import replace
from itertools import islice

import torch
from torch.utils.flop_counter import FlopCounterMode

from longrec.core.memory import keep_freed_memory
from longrec.data.histories import open_histories
from longrec.data.splits import make_split
from longrec.mixers import Context
from longrec.models import SequenceModel, build_model
from longrec.models.common.settings import parse_assignments, parse_settings
from longrec.training.fit import training_data
from longrec.training.losses import full_cross_entropy
from longrec.training.optimiser import Optimiser
from longrec.training.precision import choose_precision
from longrec_bench.cost.roofline import measure_rates

WARM, TIMED = 10, 60


def main(path: str, name: str = "elastic", *settings: str) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep_freed_memory()
    histories = open_histories(path)
    model_config, config = parse_settings(name, parse_assignments(list(settings)))
    model = build_model(name, model_config, histories.n_items).train()
    assert isinstance(model, SequenceModel)
    split = make_split(config.protocol, histories, config.cut)
    if model.max_length is None:  # windows are not carried on here
        config = replace(config, context=config.window)
    data = training_data(model, histories, split, config)
    average = copy.deepcopy(model).requires_grad_(False)
    optimiser = Optimiser(model, average, config)
    kind = choose_precision(config.precision, torch.device("cpu"))
    products = getattr(torch, kind)
    measured = measure_rates()
    rate = {name: 1e9 * measured[f"gigaflops {name} 1024x1024x1024"] for name in ("float32", kind)}
    spent = dict.fromkeys(("batch", "encode", "loss", "backward", "optimiser"), 0.0)
    targets = 0
    batches = islice(data.epoch(0).batches(), WARM + TIMED)
    for number in range(WARM + TIMED):
        clock = [time.perf_counter()]
        batch = next(batches)
        clock.append(time.perf_counter())
        real = batch.targets > 0
        ctx = Context(lengths=batch.lengths, times=batch.times)
        h = model.hidden(batch.items, ctx, real if model.targets == "masked" else None)[real]
        clock.append(time.perf_counter())
        users, items = model.user_vectors(h), model.item_vectors()
        loss = full_cross_entropy(users, items, batch.targets[real], model.item_bias(), products)
        clock.append(time.perf_counter())
        optimiser.zero_grad()
        loss.backward()
        clock.append(time.perf_counter())
        optimiser.step(number)
        clock.append(time.perf_counter())
        if number >= WARM:
            targets += int(real.sum())
            for part, began, ended in zip(spent, clock[:-1], clock[1:], strict=True):
                spent[part] += ended - began
    per_target = 6 * histories.n_items * model.items.shape[1]
    floors = {"loss": per_target / rate[kind]}
    with FlopCounterMode(display=False) as counter:
        model.hidden(batch.items, ctx, real if model.targets == "masked" else None)
    floors["encode"] = counter.get_total_flops() / int(real.sum()) / rate["float32"]
    floors["backward"] = 2 * floors["encode"]
    print(f"microseconds per target; the loss in {kind}")
    for part, seconds in spent.items():
        floor = f"  floor {1e6 * floors[part]:6.2f}" if part in floors else ""
        print(f"{part:10} {1e6 * seconds / targets:8.2f}{floor}")
    print(f"{'sum':10} {1e6 * sum(spent.values()) / targets:8.2f}")
    print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MiB")


if __name__ == "__main__":
    main(*sys.argv[1:])
