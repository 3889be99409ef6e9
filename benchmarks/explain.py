"""Time an explanation on one thread over histories of several lengths, elastic as it is by default.

    python benchmarks/explain.py

Prints seconds (the median of 3), the process's largest memory so far, and how far the attention of
any layer and head is from summing to one.
"""

from __future__ import annotations

import resource
import statistics
import time

import numpy as np
import polars as pl
import torch

from longrec.data.catalog import Catalog
from longrec.inference.encode import Events
from longrec.inference.explain import explain_history
from longrec.models import build_model
from longrec.models.common.scorer import Scorer
from longrec.models.elastic import ElasticConfig

ITEMS = 10_000


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build_model("elastic", ElasticConfig(), ITEMS).eval()
    catalog = Catalog(pl.Series(np.arange(ITEMS)), np.ones(ITEMS, np.int64))
    for events in (1_000, 10_000, 100_000, 1_000_000):
        items = np.random.default_rng(0).integers(1, ITEMS + 1, events)
        seconds = []
        for _ in range(3):
            began = time.perf_counter()
            found = explain_history(Scorer(model), catalog, 1, Events(items, None))
            seconds.append(time.perf_counter() - began)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        total = found.attention.sum(-1, dtype=np.float64) + found.memory_attention
        print(
            f"{events:>9,} events {statistics.median(seconds):8.2f} s {peak:6.0f} MiB "
            f"{np.abs(total - 1).max():.0e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
