"""Models of random weights: what a step costs does not depend on training."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import polars as pl
import torch
from torch import nn

from longrec.config.parse import check_model
from longrec.config.training import TrainConfig
from longrec.core.errors import UsageError
from longrec.data.catalog import Catalog
from longrec.models import MODELS, SequenceModel, build_model
from longrec.recommender import Recommender

SHAPE = {"dim": 64, "layers": 2, "experts": 16}
FEWEST = 20
"""Items of a catalog of which a half is enough for ten."""
CLUSTER = 100
"""Items of random vectors that lie around one centre, on average."""
WINDOWS = (200, 2048)
"""Last events that are read again for each pair, by what streams are compared with."""


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


def window_models(recommender: Recommender) -> list[SequenceModel]:
    """SASRec of a recommender's shape, random weights, one for each of `WINDOWS`.

    Their item vectors are the recommender's own if it has some, so that its index serves them, too.
    """
    config = recommender.model_config
    keys = ("dim", "layers", "heads", "ffn_dim")
    shape = {key: getattr(config, key) for key in keys if hasattr(config, key)}
    if shape.get("dim", 0) % shape.get("heads", 2):
        shape["heads"] = 1
    models = []
    for window in WINDOWS:
        own = MODELS["sasrec"].config_class(**shape, max_length=window)
        model = build_model("sasrec", own, recommender.catalog.n_items).eval()
        assert isinstance(model, SequenceModel)
        if isinstance(recommender.model, SequenceModel):
            model.items = nn.Parameter(recommender.item_vectors(), requires_grad=False)
        models.append(model)
    return models
