"""What a network takes to train on short histories, in processor time per event, on one thread.

    python benchmarks/short_histories.py [MODEL ...]

Forward and backward of the network alone, without a loss over items: as many histories as make some
2,000 events, of 2 to 64 events each; the median of five rounds in which all take turns.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import defaultdict

import torch

from longrec.mixers import Context
from longrec.models import MODELS, SequenceModel, build_model

ITEMS, EVENTS, ROUNDS, STEPS = 46_033, 2_000, 5, 5
LENGTHS = (2, 4, 8, 16, 32, 64)


def main(*names: str) -> None:
    """Print a table of microseconds."""
    torch.set_num_threads(1)
    names = names or ("elastic", "sasrec", "lrurec")
    torch.manual_seed(0)
    models = {
        name: build_model(name, MODELS[name].config_class(gaps=True), ITEMS) for name in names
    }
    found = defaultdict[tuple[str, int], list[float]](list)
    for _ in range(1 + ROUNDS):  # the first one warms up
        for length in LENGTHS:
            for name, model in models.items():
                assert isinstance(model, SequenceModel)
                found[name, length].append(microseconds(model.train(), length))
    print("| microseconds per event | " + " | ".join(f"{n} events" for n in LENGTHS) + " |")
    print("|---|" + "---|" * len(LENGTHS))
    for name in names:
        cells = (f"{statistics.median(found[name, length][1:]):.1f}" for length in LENGTHS)
        print(f"| `{name}` | " + " | ".join(cells) + " |")


def microseconds(model: SequenceModel, length: int) -> float:
    """Of one event, in some steps."""
    items = torch.randint(1, ITEMS + 1, (EVENTS // length, length))
    times = torch.randint(0, 9999, items.shape).cumsum(1)
    begun = time.process_time()
    for _ in range(STEPS):
        model.hidden(items, Context(times=times)).sum().backward()
        model.zero_grad()
    return 1e6 * (time.process_time() - begun) / (STEPS * items.numel())


if __name__ == "__main__":
    main(*sys.argv[1:])
