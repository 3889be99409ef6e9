"""Time exact top-k over a large catalog, with transitions added to a model's scores and without.

    taskset -c 0 python benchmarks/transitions_search.py [--items 1000000] [--last 10] [--times 400]

Vectors are random, of width 64; items follow one another as in a made log of ten events per item,
its popularity of a long tail. One user at a time, 300 seen items left out. Prints milliseconds of
interleaved searches, p50 and p99, their ratios, and how many items the rows have.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from longrec.inference.encode import last_items
from longrec.models import build_model
from longrec.models.common.scorer import Scorer
from longrec.models.elastic import ElasticConfig
from longrec.models.transitions import TransitionsScore
from longrec.retrieval.exact import ExactIndex

SEEN, WIDTH, LENGTH = 300, 64, 100


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--last", type=int, default=10)
    parser.add_argument("--times", type=int, default=400)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    draw = np.random.default_rng(0)
    model = build_model("elastic", ElasticConfig(dim=WIDTH), asked.items).eval()
    with torch.no_grad():
        model.items.normal_()  # type: ignore[union-attr, operator]
    log = np.minimum(draw.zipf(1.2, 10 * asked.items), 2**40) * 2_654_435_761 % asked.items + 1
    users = len(log) // LENGTH
    lengths = torch.full((users,), LENGTH)
    counted = TransitionsScore.of(
        torch.from_numpy(log), lengths, asked.items, last=asked.last, decay=0.8
    ).eval()
    indices = [ExactIndex(Scorer(model)), ExactIndex(Scorer(model, counted))]
    took: list[list[float]] = [[], []]
    rows = []
    for _ in range(asked.times):
        user = int(draw.integers(users))
        begin, end = np.array([user * LENGTH]), np.array([(user + 1) * LENGTH])
        recent = last_items(log, begin, end, asked.last)
        vector = torch.from_numpy(draw.normal(size=(1, WIDTH)).astype(np.float32))
        seen = np.zeros((1, asked.items // 8 + 1), np.uint8)
        for item in draw.integers(1, asked.items + 1, SEEN):
            seen[0, item >> 3] |= 1 << (item & 7)
        rows.append(len(counted.rows(recent).row))
        for place in draw.permutation(2):
            start = time.perf_counter()
            with torch.inference_mode():
                indices[place].search(vector, 10, seen, recent if place else None)
            took[place].append(1e3 * (time.perf_counter() - start))
    alone, added = ([float(np.percentile(x[20:], q)) for q in (50, 99)] for x in took)
    print(
        f"{asked.items:,} items, the last {asked.last} read: rows of {np.median(rows):,.0f} items"
    )
    for name, (p50, p99) in (("alone", alone), ("with transitions", added)):
        print(f"{name:18} p50 {p50:7.2f} ms  p99 {p99:7.2f} ms")
    print(f"ratio              p50 {added[0] / alone[0]:7.2f}     p99 {added[1] / alone[1]:7.2f}")


if __name__ == "__main__":
    main()
