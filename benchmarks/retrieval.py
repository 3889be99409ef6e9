"""Time exact top-10 on one thread over catalogs of several sizes, width 64.

    python benchmarks/retrieval.py

Prints medians of milliseconds per user (of processor time: what else the machine does counts less
so): one user alone with nothing barred, with 200 items and with half of the catalog; then 32 users
at once, 200 items of each barred. "In full" is float32, "8 bits first" what `ExactIndex` does where
that is faster. Vectors are random: `benchmarks/index.py` takes trained ones.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch

from longrec.models import build_model
from longrec.models.common.scorer import Scorer
from longrec.models.hydrarec import HydraRecConfig
from longrec.retrieval.exact import ExactIndex
from longrec.retrieval.index import as_bits

REPEATS = 30


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    print("| items | | nothing barred | 200 barred | half barred | of 32 users, 200 barred |")
    print("|---|---|---|---|---|---|", flush=True)
    for items in (3_400, 20_000, 100_000, 300_000, 1_000_000):
        model = build_model("hydrarec", HydraRecConfig(), items).eval()
        full, scan = (ExactIndex(Scorer(model), in_8_bits=eight) for eight in (False, True))

        def barred(many: int, users: int, items: int = items) -> np.ndarray:
            rows = [random.permutation(items)[:many] + 1 for _ in range(users)]
            return np.stack([as_bits(row, items) for row in rows])

        for words, index in (("in full", full), ("8 bits first", scan)):
            taken = [
                _median(index, torch.randn(1, 64), rows)
                for rows in (None, barred(200, 1), barred(items // 2, 1))
            ]
            taken.append(_median(index, torch.randn(32, 64), barred(200, 32)))
            shown = " | ".join(f"{one:.3f}" for one in taken)
            print(f"| {items:,} | {words} | {shown} |", flush=True)


def _median(index: ExactIndex, h: torch.Tensor, barred: np.ndarray | None) -> float:
    """Milliseconds per user."""
    taken = []
    for _ in range(REPEATS + 2):
        began = time.thread_time()
        index.search(h, 10, barred)
        taken.append(1e3 * (time.thread_time() - began))
    return statistics.median(taken[2:]) / len(h)


if __name__ == "__main__":
    main()
