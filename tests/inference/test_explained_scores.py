"""Explanations of models with frames of their own: they explain the score that is served."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
import polars as pl
import pytest
import torch
from models import added_scores
from models.skeletons import SKELETONS
from models.small_models import N
from small_histories import walks
from torch import nn
from torch.nn.functional import normalize

from longrec.config.training import TrainConfig
from longrec.core.errors import UsageError
from longrec.data.catalog import Catalog
from longrec.mixers import Context
from longrec.mixers.dispatcher import DispatcherMixer
from longrec.models import Block, ResidualBlock, SequenceModel
from longrec.models.common.blocks import FeedForwardBlock
from longrec.models.elastic import Elastic, ElasticConfig
from longrec.recommender import Recommender

HISTORY = [1000, 1003, 1001, 1007, 1003, 1004]
CONFIG = ElasticConfig(dim=12, ffn_dim=16, heads=2, experts=3)


class Framed(SequenceModel):
    """Dispatcher attention in some frame."""

    name = "framed"
    streaming = "exact"
    frame: ClassVar[dict] = {}

    def __init__(self, config, n_items):
        mixers = [DispatcherMixer(config.dim, config.heads, 3) for _ in range(config.layers)]
        super().__init__(config, n_items, mixers, **self.frame)


class Untied(Framed):
    frame: ClassVar[dict] = {"tied": False, "bias": True, "block": ResidualBlock}


class Interests(Framed):
    def __init__(self, config, n_items):
        super().__init__(config, n_items)
        self.interests = nn.Linear(config.dim, 3 * config.dim)

    def user_vectors(self, h):
        return self.interests(h).unflatten(-1, (3, -1))


class CosineItems(Framed):
    def item_vectors(self, items=None):
        return normalize(super().item_vectors(items), dim=-1)


class Plain(Framed):
    frame: ClassVar[dict] = {"block": Block}


class Doubled(Framed):
    class Twice(FeedForwardBlock):
        def after(self, x, mixed):
            return super().after(x, 2 * mixed)

    frame: ClassVar[dict] = {"block": Twice}


class CosineUsers(Framed):
    def user_vectors(self, h):
        return normalize(h, dim=-1)[:, None]


class NoNorm(Framed):
    def __init__(self, config, n_items):
        super().__init__(config, n_items)
        self.norm = nn.Identity()


class OwnReadout(Framed):
    def readout(self, x):
        return super().readout(x).tanh()


class OwnMixer(Framed):
    class Halved(DispatcherMixer):
        def _forget(self, *args):
            forget, time = super()._forget(*args)
            return forget / 2, time

    def __init__(self, config, n_items):
        SequenceModel.__init__(self, config, n_items, [self.Halved(config.dim)])


class Pairs(Framed):
    def score_pairs(self, h, items):
        return (h[:, None] * self.item_vectors(items)).sum(-1)


def recommender(cls=Elastic, added=None, **settings) -> Recommender:
    torch.manual_seed(0)
    config = replace(CONFIG, **settings)
    model = cls(config, N).eval()
    with torch.no_grad():
        model.norm.weight.uniform_(0.5, 2) if hasattr(model.norm, "weight") else None
        for table in model.item_tables():
            getattr(model, table)[1:].normal_()
    catalog = Catalog(pl.Series("id", np.arange(1000, 1000 + N)), np.ones(N, np.int64))
    return Recommender("framed", model, config, TrainConfig(), catalog, added=added)


def check(rec: Recommender, items: int = 3) -> None:
    """The scores are recommend's, and events add what they do: zero values, zero contributions."""
    best = rec.recommend(histories=[HISTORY], exclude_seen=False, k=items)
    for item, score in zip(best["item"], best["score"], strict=True):
        found = rec.explain(item, history=HISTORY)
        assert found.score == pytest.approx(score, abs=1e-4)
        plain = found.to_dict()
        assert plain["score"] == pytest.approx(
            sum(e["contribution"] for e in plain["events"])
            + plain["memory_contribution"]
            + plain["bias"]
            + plain["added"]
            + plain["rest"]
        )
        assert found.contribution.any()


@pytest.mark.parametrize("cls", [Elastic, Untied, Interests, CosineItems])
def test_the_score_is_the_one_recommended_with(cls):
    check(recommender(cls))


def test_contributions_lie_along_the_vector_that_is_scored():
    """With one layer, no feed-forward network and a known sigma all that is left is the bias."""
    for cls in (Untied, Interests):
        rec = recommender(cls, layers=1)
        model = rec.model
        with torch.no_grad():
            for block in model.blocks:
                if hasattr(block, "ffn"):
                    block.ffn[-1].weight.zero_(), block.ffn[-1].bias.zero_()
            if cls is Interests:
                model.interests.bias.zero_()
            model.norm.bias.zero_()
            found = rec.explain(1009, history=HISTORY)
            items, ctx = torch.tensor([HISTORY]) - 999, Context()
            x = model.blocks[0](model.embed(items, ctx), ctx)[0, -1]
            own = model.embed(items, ctx)[0, -1]
            sigma = (x.var(correction=0) + model.norm.eps).sqrt()
            part = model.norm.weight * (own - own.mean()) / sigma
            vector = model.item_vectors()[10]
            won = (model.user_vectors(model.readout(x[None]))[0] @ vector).argmax()
            rest = float(model.user_vectors(part[None])[0, won] @ vector)
        assert found.rest == pytest.approx(rest, abs=1e-4)


def test_a_bias_is_told():
    rec = recommender(Untied)
    before = rec.explain(1009, history=HISTORY)
    with torch.no_grad():
        rec.model.output_bias[10] += 2
    after = rec.explain(1009, history=HISTORY)
    assert after.bias == pytest.approx(before.bias + 2, abs=1e-5)
    assert after.score == pytest.approx(before.score + 2, abs=1e-4)
    assert after.rest == pytest.approx(before.rest, abs=1e-4)


@pytest.mark.parametrize("context", [None, 1])
def test_an_added_score_is_told(context, monkeypatch):
    added_scores.register(monkeypatch)
    added = added_scores.FollowersScore.of(walks(9, N, 3, 30), N)
    rec, plain = recommender(added=added), recommender()
    for one in (rec, plain):
        one.train_config = TrainConfig(context=context)
    check(rec)
    items = torch.tensor(HISTORY).flip(0)[:2] - 999
    for item in (5, 9):
        found, without = (one.explain(999 + item, history=HISTORY) for one in (rec, plain))
        row, where, value = added.rows(items[None])
        wanted = added.bias()[item] + value[(where == item) & (row == 0)].sum()
        assert found.added == pytest.approx(float(wanted), abs=1e-5)
        assert found.rest == pytest.approx(without.rest, abs=1e-4)
        assert without.added == without.bias == 0


@pytest.mark.parametrize(
    ("cls", "why"),
    [
        (Plain, "layer 0 is a Block, which is no residual block"),
        (Doubled, "layer 0, a Twice, has after of its own"),
        (CosineUsers, "its user vectors are not linear"),
        (NoNorm, "its final norm is a Identity"),
        (OwnReadout, "it has readout of its own"),
        (OwnMixer, "the mixer of layer 0 is a Halved, a kind of its own"),
        (Pairs, "it scores a user and an item together"),
        *((cls, "it has no causal dispatcher attention") for cls in SKELETONS.values()),
    ],
)
def test_what_the_mathematics_does_not_know_is_refused_by_name(cls, why, monkeypatch):
    if cls in SKELETONS.values():
        rec = recommender()
        rec.model = cls(cls.config_class(), N).eval()
        monkeypatch.setattr(cls, "name", "skeleton", raising=False)
    else:
        rec = recommender(cls)
    with pytest.raises(UsageError, match=f"not available for (framed|skeleton): {why}"):
        rec.explain(1001, history=HISTORY)
