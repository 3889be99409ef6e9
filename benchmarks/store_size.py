"""Bytes that a user takes in an LMDB store, as it is filled and once it is compacted.

    python benchmarks/store_size.py FOLDER

Models of width 64 and 2 layers with random weights over 3,400 items; 2,000 users, ids of 11
characters, event ids of 16 characters or none. FOLDER is used for a store, which is removed again.
"""

from __future__ import annotations

import sys
import tempfile

import numpy as np
import polars as pl
import torch

from longrec.config.training import TrainConfig
from longrec.data.catalog import Catalog
from longrec.models import MODELS, build_model
from longrec.recommender import Recommender
from longrec.serving.stores.open import open_store

ITEMS, USERS = 3_400, 2_000


def recommender(name: str) -> Recommender:
    """A model of default size with random weights."""
    torch.manual_seed(0)
    config = MODELS[name].config_class()
    catalog = Catalog(pl.Series(np.arange(ITEMS)), np.ones(ITEMS, np.int64))
    return Recommender(
        name, build_model(name, config, ITEMS).eval(), config, TrainConfig(), catalog
    )


def main(folder: str) -> None:
    """Fill, measure and print."""
    random = np.random.default_rng(0)
    print(f"{'':10}{'events':>8}{'event ids':>11}{'as filled':>11}{'compacted':>11}")
    for name in ("elastic", "hydrarec"):
        for events, named in ((1, False), (100, False), (100, True)):
            n = USERS * events
            columns = {
                "user": [f"user{i:07d}" for i in np.tile(np.arange(USERS), events)],
                "item": random.integers(0, ITEMS, n),
                "time": np.sort(random.integers(1_600_000_000, 1_700_000_000, n)),
            }
            if named:
                columns["event_id"] = [f"order-{i:010d}" for i in range(n)]
            with tempfile.TemporaryDirectory(dir=folder) as place:
                with recommender(name).open_stream(place, durability="process") as stream:
                    stream.observe_many(pl.DataFrame(columns))
                    filled = stream.stats()["bytes"]
                store = open_store(place)
                compacted = store.compact()[1]
                store.close()
            print(
                f"{name:10}{events:>8}{'yes' if named else 'no':>11}"
                f"{filled / USERS:>11,.0f}{compacted / USERS:>11,.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1])
