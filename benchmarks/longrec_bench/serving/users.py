"""Users and models to measure with: histories of given lengths, and weights drawn by a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import fields
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import nn

from longrec.config.training import TrainConfig
from longrec.core import bounds
from longrec.core.errors import UsageError
from longrec.data.catalog import Catalog
from longrec.data.histories import Histories
from longrec.data.write import write_histories
from longrec.models import MODELS, SequenceModel, build_model
from longrec.models.common.settings import check_model
from longrec.recommender import Recommender

MOST, EVENTS = 256, 640_000
"""Users of one length: so many at most, with so many events in all, at least one user."""
END, GAP = 1_700_000_000, 60
"""Time of the last event of all histories, and seconds between two events."""
SHAPE = {"dim": 64, "layers": 2, "experts": 16}
FEWEST = 20
"""Items of a catalog of which a half is enough for ten."""
CLUSTER = 100
"""Items of random vectors that lie around one centre, on average."""


class Users:
    """Users with histories of one length, who go on one event after the other.

    Each has a half of the catalog and no events outside it, so that however long a history is
    there is something left to recommend.

    Attributes
    ----------
    length : events of each when the measurement begins.
    ids : of the users.
    items : (n, length) item indices of their histories.
    """

    def __init__(self, length: int, catalog: Catalog, seed: int) -> None:
        rng = np.random.default_rng([seed, length])
        n, self.length = max(1, min(MOST, EVENTS // length)), length
        self.ids = [f"{length}-{number:04}" for number in range(n)]
        # One order of all items; each user's half begins somewhere in it.
        self._order = (rng.permutation(catalog.n_items) + 1).astype(np.int32)
        self._half = (catalog.n_items + 1) // 2
        self._starts = rng.integers(catalog.n_items, size=n)
        drawn = rng.integers(self._half, size=(n, length))
        self.items = self._order[(self._starts[:, None] + drawn) % catalog.n_items]
        self._names: list[Any] = catalog.ids.to_list()
        self._clock = count(END + 1)

    def __len__(self) -> int:
        return len(self.ids)

    def event(self, number: int, rng: random.Random) -> tuple[str, Any, int]:
        """The next event of a user: their id, an item's id, and the time; from any thread."""
        return self.ids[number], self._names[self.index(number, rng) - 1], next(self._clock)

    def index(self, number: int, rng: random.Random) -> int:
        """The item index of a user's next event."""
        position = int(self._starts[number]) + rng.randrange(self._half)
        return int(self._order[position % len(self._order)])


def write_users(groups: Sequence[Users], catalog: Catalog, path: Path) -> Histories:
    """The histories of users, as a folder that longrec reads."""
    items_of = {
        name: items for users in groups for name, items in zip(users.ids, users.items, strict=True)
    }
    names = sorted(items_of)
    lengths = np.array([len(items_of[name]) for name in names])
    return write_histories(
        path,
        user_ids=pl.Series("user", names),
        offsets=np.concatenate([[0], lengths.cumsum()]),
        items=np.concatenate([items_of[name] for name in names]),
        times=np.concatenate([END - GAP * np.arange(n - 1, -1, -1) for n in lengths]),
        catalog=catalog,
        source="longrec bench",
        time_unit="s",
    )


def random_recommender(name: str, items: int, seed: int = 0) -> Recommender:
    """A model of width 64 and 2 layers with random weights, over a catalog of so many items.

    Item vectors lie in clusters, as trained ones do: an index finds little order in a round cloud.

    Raises
    ------
    UsageError
        When there is no such model, or the catalog is too small.
    """
    config_class = MODELS[check_model(name)].config_class
    if not FEWEST <= items <= bounds.MOST:
        raise UsageError(
            f"items is {items}; it must be at least {FEWEST}, and at most {bounds.MOST}"
        )
    keys = {field.name for field in fields(config_class)}
    config = config_class(**{key: value for key, value in SHAPE.items() if key in keys})
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = build_model(name, config, items).eval()
        if isinstance(model, SequenceModel):
            centres = model.items[1 : 2 + items // CLUSTER].clone()  # row 0 is padding
            near = centres[torch.randint(len(centres), (items,))]
            model.items[1:].mul_(0.5).add_(near)
    catalog = Catalog(pl.Series("item", np.arange(1, items + 1)), np.ones(items, np.int64))
    return Recommender(name, model, config, TrainConfig(), catalog)


def window_model(recommender: Recommender, window: int) -> SequenceModel:
    """SASRec of a recommender's shape that reads the last `window` events, with random weights.

    Its item vectors are the recommender's own if it has some, so that its index serves both.
    """
    config = recommender.model_config
    keys = ("dim", "layers", "heads", "ffn_dim")
    shape = {key: getattr(config, key) for key in keys if hasattr(config, key)}
    if shape.get("dim", 0) % shape.get("heads", 2):
        shape["heads"] = 1
    own = MODELS["sasrec"].config_class(**shape, max_length=window)
    model = build_model("sasrec", own, recommender.catalog.n_items).eval()
    assert isinstance(model, SequenceModel)
    if isinstance(recommender.model, SequenceModel):
        model.items = nn.Parameter(recommender.item_vectors(), requires_grad=False)
    return model
