"""Time the loss over the catalog, forward and backward, on one thread: ours beside torch's.

    python benchmarks/loss.py [events] [items] [width]

Prints medians of interleaved repeats in milliseconds.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from longrec.training.losses import full_cross_entropy


def main(events: int = 17_000, items: int = 3_417, width: int = 64) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    table = (torch.randn(items, width) * 0.1).requires_grad_()
    h = torch.randn(events, width, requires_grad=True)
    targets = torch.randint(1, items, (events,))
    forms: dict[str, Callable[[], Tensor]] = {
        "torch cross_entropy, float32": lambda: cross_entropy(h @ table.t(), targets),
        "longrec, float32": lambda: full_cross_entropy(h[:, None], table, targets),
        "longrec, bfloat16": lambda: full_cross_entropy(
            h[:, None], table, targets, products=torch.bfloat16
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for repeat in range(6):
        for name, form in forms.items():
            began = time.perf_counter()
            form().backward()
            if repeat:  # the first round warms up
                seconds[name].append(time.perf_counter() - began)
    for name, taken in seconds.items():
        print(f"{name:30} {1e3 * statistics.median(taken):8.1f} ms")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
