"""Engines at work on small models: what the tests of records share."""

from __future__ import annotations

from functools import cache

import numpy as np
import polars as pl
import torch
from models.small_models import SEQUENCE, N, make

from longrec.config.training import TrainConfig
from longrec.data.catalog import Catalog
from longrec.models import MODELS
from longrec.recommender import Recommender
from longrec.serving.records.engine import Engine

CASES = {name: {} for name in SEQUENCE if MODELS[name].streaming == "exact"} | {
    "elastic with a memory bank": {"memory_slots": 64, "memory_topk": 4, "memory_every": 5},
    "elastic by time": {"forgetting": "time"},
    "elastic without forgetting": {"forgetting": "none"},
}


def recommender(case: str, kind: torch.dtype = torch.float32, **settings) -> Recommender:
    """A small untrained one; a case's name begins with its model's."""
    name = case.split()[0]
    model = make(name, kind, **(CASES.get(case, {}) | settings))
    catalog = Catalog(pl.Series(np.arange(100, 100 + N)), np.arange(N, dtype=np.int64))
    return Recommender(name, model, model.config, TrainConfig(), catalog)


@cache
def engine(case: str) -> Engine:
    return Engine(recommender(case))
