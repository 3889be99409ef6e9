"""Systems with frames of their own are trained, saved and refused as users bring them."""

from __future__ import annotations

from dataclasses import fields

import polars as pl
import pytest
import torch
from models.skeletons import SKELETONS, TwoInterests, register
from models.small_models import SMALL
from polars.testing import assert_frame_equal
from small_histories import tiny_histories, walks

import longrec
from longrec.config.training import TrainConfig
from longrec.core.errors import LongrecError, UsageError
from longrec.export.graphs import check_exports
from longrec.models import MODELS
from longrec.retrieval.index_cache import open_index

ITEMS, USERS = 25, 30
TRAINING = {
    "max_epochs": 5,
    "patience": 5,
    "learning_rate": 2e-2,
    "warmup_steps": 5,
    "batch_tokens": 100,
    "average": 0.9,
    "dropout": 0.0,
    "precision": "float32",
}


@pytest.fixture(scope="module")
def patch():
    with pytest.MonkeyPatch.context() as patch:
        register(patch)
        yield patch


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    rows = walks(USERS, ITEMS, 6, 25)
    times = [list(range(1000, 1000 + 60 * len(row), 60)) for row in rows]
    return tiny_histories(tmp_path_factory.mktemp("skeletons") / "histories", rows, times, ITEMS)


@pytest.fixture(scope="module", params=SKELETONS)
def trained(request, data, patch, tmp_path_factory):
    """A run of each, trained and evaluated."""
    keys = {field.name for field in fields(MODELS[request.param].config_class)}
    settings = {key: value for key, value in SMALL.items() if key in keys} | {"layers": 1}
    if request.param == "target-aware":
        settings |= {"loss": "sampled", "negatives": 16}
    folder = tmp_path_factory.mktemp(request.param) / "run"
    rec = longrec.train(data, request.param, folder, **settings, **TRAINING)
    return rec, longrec.evaluate(rec, data)


def test_the_loss_falls_and_something_is_learnt(trained):
    rec, metrics = trained
    assert rec.provenance["training"]["epochs"] == 5
    losses = pl.read_csv(rec.folder / "log.csv")["loss"].drop_nulls()
    assert losses[-1] < 0.97 * losses[0]
    assert metrics["hr@10"] > 10 / ITEMS


def test_what_was_saved_recommends_the_same(trained, data, tmp_path):
    rec, _ = trained
    wanted = rec.recommend(data=data)
    assert_frame_equal(longrec.load(rec.folder).recommend(data=data), wanted)
    copy = longrec.load(rec.folder).save(tmp_path / "copy")
    assert_frame_equal(longrec.load(copy).recommend(data=data), wanted)


def test_they_are_explained_and_exported_or_refused_by_name(trained, data):
    rec, _ = trained
    bare = rec.with_added_score(None)
    with pytest.raises(UsageError, match=f"not available for {rec.name}: "):
        bare.explain(1001, data.user_ids[0])
    if rec.added is not None:
        assert not rec.explain(1001, data.user_ids[0]).tells_attention
    if rec.name == "target-aware":
        with pytest.raises(UsageError, match="target-aware scores a user and an item together"):
            check_exports(rec.scorer)
        with pytest.raises(UsageError, match="target-aware on cpu has no approximate index"):
            open_index(rec, "approximate")
    else:  # tests/export/test_scores.py exports them, which takes minutes
        assert check_exports(rec.scorer) is rec.model


def test_a_loss_over_all_items_refuses_pairs_by_name(data, patch, tmp_path):
    assert TrainConfig().loss == "full"
    with pytest.raises(LongrecError, match="target-aware"):
        longrec.train(data, "target-aware", tmp_path / "run", max_epochs=1)
    assert not (tmp_path / "run").exists()


class Zeroed(TwoInterests):
    """Whose interests have biases of zero until they are trained."""

    def __init__(self, config, n_items: int) -> None:
        super().__init__(config, n_items)
        torch.nn.init.zeros_(self.interests.bias)


def test_all_vectors_of_a_user_are_trained_and_ranked_by(data, monkeypatch):
    monkeypatch.setitem(SKELETONS, "two-interests", Zeroed)
    register(monkeypatch)
    rec = longrec.train(data, "two-interests", dim=8, layers=1, max_epochs=1, transitions=0)
    model = rec.model
    with torch.no_grad():
        h = model.encode(torch.tensor([[1, 2, 3]]))[:, -1]
        products = model.user_vectors(h) @ model.item_vectors().t()
        both = products.amax(1)[:, 1:] + model.item_bias()[1:]
        torch.testing.assert_close(rec.scorer.score(h)[:, 1:], both)
    assert (model.interests.bias.unflatten(0, (2, -1)).abs().sum(1) > 0).all()
