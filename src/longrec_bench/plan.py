"""What is measured: lengths of histories, durabilities, clients, models with random weights."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import get_args

import numpy as np
import polars as pl
import torch

from longrec.config.parse import check_model
from longrec.config.training import TrainConfig
from longrec.core.errors import UsageError
from longrec.data.catalog import Catalog
from longrec.models import MODELS, SequenceModel, build_model
from longrec.recommender import Recommender
from longrec.serving.stores.protocol import Durability

PAIRS, FEW = 10, 2
"""Pairs per burst; of what reads a window again, which takes long."""
SPANS = 5
"""Parts into which the seconds of clients at once are divided."""

SHAPE = {"dim": 64, "layers": 2, "experts": 16}
"""Of models with random weights: what a step costs does not depend on training."""
FEWEST = 20
"""Items of a catalog of which a half is enough for ten."""
CLUSTER = 100
"""Items of random vectors that lie around one centre, on average."""


@dataclass(frozen=True)
class Plan:
    """What is measured, and for how long.

    Attributes
    ----------
    histories : events of users when the measurement begins, a length each.
    durabilities : of stores, "power" or "process".
    clients : numbers of clients at once.
    rounds : in which every cell has its turn; a turn of one client has 10 pairs.
    seconds : in all for each cell of several clients.
    seed : of users, events and the order of turns.
    """

    histories: tuple[int, ...] = (100, 10_000, 1_000_000)
    durabilities: tuple[Durability, ...] = ("power", "process")
    clients: tuple[int, ...] = (1, 32)
    rounds: int = 100
    seconds: float = 5.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("histories", "durabilities", "clients"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise UsageError(f"{name} needs different values, at least one; it has {values}")
        for name in ("histories", "clients"):
            low = min(getattr(self, name))
            if low < 1:
                raise UsageError(f"{name} has {low}; each must be at least 1")
        for durability in self.durabilities:
            if durability not in get_args(Durability):
                raise UsageError(f"durability is {durability!r}; choose 'power' or 'process'")
        if self.rounds < 1:
            raise UsageError(f"rounds is {self.rounds}; it must be at least 1")
        if not 0 < self.seconds < float("inf"):
            raise UsageError(f"seconds is {self.seconds}; it must be above 0")


def random_recommender(name: str, items: int, seed: int = 0) -> Recommender:
    """A model of width 64 and 2 layers with random weights, over a catalog of so many items.

    Item vectors lie in clusters, as trained ones do: an index finds little order in a round cloud.

    Raises
    ------
    UsageError
        When there is no such model, or the catalog is too small.
    """
    config_class = MODELS[check_model(name)].config_class
    if items < FEWEST:
        raise UsageError(f"items is {items}; it must be at least {FEWEST}")
    keys = {field.name for field in fields(config_class)}
    config = config_class(**{key: value for key, value in SHAPE.items() if key in keys})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(name, config, items).eval()
        if isinstance(model, SequenceModel):
            _cluster(model.items)
    catalog = Catalog(pl.Series("item", np.arange(1, items + 1)), np.ones(items, np.int64))
    return Recommender(name, model, config, TrainConfig(), catalog)


@torch.no_grad()
def _cluster(vectors: torch.Tensor) -> None:
    """Move random vectors (n + 1, D), of which row 0 is padding, each to one of some centres."""
    n = len(vectors) - 1
    centres = vectors[1 : 2 + n // CLUSTER].clone()
    vectors[1:].mul_(0.5).add_(centres[torch.randint(len(centres), (n,))])
