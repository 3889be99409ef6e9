"""What a memory bank brought: by history length against a run without one, and switched off.

    python benchmarks/bank.py RUN OTHER HISTORIES

RUN is an evaluated run of `elastic` with a memory bank, OTHER one without, both on HISTORIES.
Prints differences in NDCG@10 with 95% intervals (paired bootstrap over users).
"""

from __future__ import annotations

import sys
from pathlib import Path

import polars as pl
import torch

from longrec.comparison.read_runs import read_ranks
from longrec.data.histories import open_histories
from longrec.data.splits import make_split
from longrec.evaluation.rank_targets import rank_targets
from longrec.evaluation.summary import compare_ranks
from longrec.mixers.dispatcher_memory import MemoryDispatcherMixer
from longrec.recommender import load

NEVER = 10**9


def differences(what: str, a: pl.DataFrame, b: pl.DataFrame, first: int) -> None:
    """Print a minus b for targets that a bank can have reached, and for those it cannot."""
    for low, high in ((0, first - 1), (first, NEVER), (200, NEVER)):
        here = pl.col("length").is_between(low, high)
        found = compare_ranks(a.filter(here), b.filter(here))
        print(
            f"{what}, {low} to {'…' if high == NEVER else high} events: {found.mean:+.4f} "
            f"({found.low:+.4f} to {found.high:+.4f}), {a.filter(here).height:,} targets"
        )


def main(run: str, other: str, path: str) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    recommender, histories = load(run), open_histories(path)
    banks = [m for m in recommender.model.modules() if isinstance(m, MemoryDispatcherMixer)]
    ranks, first = read_ranks(Path(run)), banks[0].every
    differences("with minus without", ranks, read_ranks(Path(other)), first)
    for bank in banks:
        bank.every = NEVER  # beyond every history: never asked
    config = recommender.train_config
    split = make_split(config.protocol, histories, config.cut)
    context = recommender.train_config.context
    off = rank_targets(recommender.scorer, histories, split.test, context)
    differences("switched on minus off", ranks, off, first)


if __name__ == "__main__":
    main(*sys.argv[1:])
