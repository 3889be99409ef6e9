"""Time exact top-10 on one thread over catalogs of several sizes, width 64, nothing excluded.

    python benchmarks/retrieval.py

Prints medians in milliseconds: one user alone, and per user of 200 at once.
"""

from __future__ import annotations

import statistics
import time

import torch

from longrec.models import build_model
from longrec.models.hydrarec import HydraRecConfig
from longrec.retrieval.exact import top_k

NOTHING = torch.zeros(0, dtype=torch.int64)


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for items in (3_400, 100_000, 1_000_000):
        model = build_model("hydrarec", HydraRecConfig(), items).eval()
        taken = []
        for users in (1, 200):
            h = torch.randn(users, 64)
            seconds = []
            for _ in range(6):
                began = time.perf_counter()
                top_k(model, h, 10, NOTHING, NOTHING)
                seconds.append(time.perf_counter() - began)
            taken.append(1e3 * statistics.median(seconds[1:]) / users)
        print(f"{items:>9,} items {taken[0]:8.2f} {taken[1]:8.2f}")


if __name__ == "__main__":
    main()
