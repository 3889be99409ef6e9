"""Systems with frames of their own, from a log to a stream, as users of longrec bring them."""

from __future__ import annotations

from dataclasses import fields

import polars as pl
import pytest
from models.skeletons import SKELETONS, register
from models.small_models import SMALL
from polars.testing import assert_frame_equal
from small_histories import tiny_histories, walks

import longrec
from longrec.config.training import TrainConfig
from longrec.core.errors import LongrecError, UsageError
from longrec.export.graphs import check_exports
from longrec.models import MODELS

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


def inputs(data):
    """Of each user the item ids and times but the last, and the last item, which is the target."""
    for user, begin, end in zip(data.user_ids, data.offsets[:-1], data.offsets[1:], strict=True):
        items = data.catalog.take(data.items[begin:end]).to_list()
        yield user, items[:-1], data.times[begin:end].tolist()[:-1], items[-1]


def test_the_loss_falls_and_something_is_learnt(trained):
    rec, metrics = trained
    assert rec.provenance["training"]["epochs"] == 5
    losses = pl.read_csv(rec.folder / "log.csv")["loss"].drop_nulls()
    assert losses[-1] < 0.97 * losses[0]
    assert metrics["hr@10"] > 10 / ITEMS


def test_evaluation_ranks_as_recommend_lists(trained, data):
    rec, _ = trained
    ranks = pl.read_parquet(rec.folder / "ranks.parquet")["rank_unfiltered"].to_list()
    every = list(inputs(data))
    found = rec.recommend(histories=[items for _, items, *_ in every], k=ITEMS, exclude_seen=False)
    lists = found.group_by("user", maintain_order=True).agg("item")["item"]
    places = [
        one.to_list().index(target) + 1 for one, (*_, target) in zip(lists, every, strict=True)
    ]
    assert places == ranks


def test_what_was_saved_recommends_the_same(trained, data, tmp_path):
    rec, _ = trained
    wanted = rec.recommend(data=data)
    assert_frame_equal(longrec.load(rec.folder).recommend(data=data), wanted)
    copy = longrec.load(rec.folder).save(tmp_path / "copy")
    assert_frame_equal(longrec.load(copy).recommend(data=data), wanted)


def test_streams_recommend_what_recommend_does(trained, data, tmp_path):
    rec, _ = trained
    some = list(inputs(data))[:6]
    wanted = rec.recommend(histories=[items for _, items, *_ in some], k=ITEMS)
    with rec.open_stream(str(tmp_path / "store"), durability="process") as stream:
        for user, items, times, _ in some:
            for item, time in zip(items, times, strict=True):
                stream.observe(user, item, time)
        for number, (user, *_) in enumerate(some):
            own = wanted.filter(pl.col("user") == number)
            found = stream.recommend(user, k=ITEMS)
            assert found["item"].to_list() == own["item"].to_list()
            assert (found["score"] - own["score"]).abs().max() < 1e-3


def test_they_are_explained_and_exported_or_refused_by_name(trained, data):
    rec, _ = trained
    with pytest.raises(UsageError, match=f"not available for {rec.name}: "):
        rec.explain(1001, data.user_ids[0])
    if rec.name == "target-aware":
        with pytest.raises(UsageError, match="target-aware scores a user and an item together"):
            check_exports(rec.scorer)
    else:  # tests/export/test_scores.py exports them, which takes minutes
        assert check_exports(rec.scorer) is rec.model


def test_a_loss_over_all_items_refuses_pairs_by_name(data, patch, tmp_path):
    assert TrainConfig().loss == "full"
    with pytest.raises(LongrecError, match="target-aware"):
        longrec.train(data, "target-aware", tmp_path / "run", max_epochs=1)
    assert not (tmp_path / "run").exists()
