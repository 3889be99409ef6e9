"""What a store costs to bring back: the log from its backup, then all records anew from the log.

    python benchmarks/restore_cost.py FOLDER [USERS [EVENTS]]

ELASTIC of width 64 and 2 layers with random weights over 3,400 items; USERS users (10,000) with
EVENTS events each (100), on one thread. FOLDER is used for two stores and a backup, which are
removed again. Bind it to one core: taskset -c 0 python ...
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import torch

from longrec.serving.maintenance.backup import backup
from longrec.serving.maintenance.restore import restore
from longrec.serving.stores.open import open_store
from store_size import ITEMS, recommender


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print what took how long, in seconds by the clock and of the processor."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    print(f"{what:16}{time.perf_counter() - wall:9.1f}{time.process_time() - cpu:9.1f}")


def main(folder: str, users: int = 10_000, events: int = 100) -> None:
    """Fill a store, back it up, restore it into another one, rebuild that one's records."""
    torch.set_num_threads(1)
    random, n = np.random.default_rng(0), users * events
    frame = pl.DataFrame(
        {
            "user": [f"user{i:07d}" for i in np.repeat(np.arange(users), events)],
            "item": random.integers(0, ITEMS, n),
            "time": random.integers(1_600_000_000, 1_700_000_000, n),
        }
    )
    elastic = recommender("elastic")
    print(f"{f'{n:,} events':16}{'wall':>9}{'CPU':>9}")
    with tempfile.TemporaryDirectory(dir=folder) as place:
        with (
            timed("observe"),
            elastic.open_stream(f"{place}/first", durability="process") as stream,
        ):
            stream.observe_many(frame)
        with timed("backup"), closing(open_store(f"{place}/first")) as store:
            backup(store, f"{place}/backup")
        with timed("restore"), closing(open_store(f"{place}/second")) as store:
            restore(f"{place}/backup", store)
        with elastic.open_stream(f"{place}/second") as stream, timed("rebuild"):
            stream.rebuild()
        size = sum(file.stat().st_size for file in Path(place, "backup").iterdir())
        print(f"the backup has {size:,} bytes")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
