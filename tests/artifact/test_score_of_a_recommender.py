"""An added score of a recommender: saved, restored, refused; what it changes of digests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from checks.toys import TableOfItsOwn, ToyConfig
from models import added_scores
from models.added_scores import FollowersScore, skeleton
from models.skeletons import register
from models.small_models import N
from serving.small_streams import FIRST, recommender
from small_histories import tiny_histories, walks

import longrec
from longrec.config.training import TrainConfig
from longrec.core.errors import DataError, UsageError
from longrec.models import MODELS, build_model, register_model
from longrec.models.common.added_score import ADDED_SCORES, PopularityConfig, PopularityScore
from longrec.recommender import Recommender, load

ROWS = walks(5, N, 3, 20)


@pytest.fixture(autouse=True)
def _registered(monkeypatch) -> None:
    added_scores.register(monkeypatch)


def with_popularity(weight: float = 0.5) -> Recommender:
    rec = recommender("elastic")
    return rec.with_added_score(PopularityScore.of(rec.catalog.counts, weight))


def with_followers() -> Recommender:
    return recommender("elastic").with_added_score(FollowersScore.of(ROWS, N))


def frame(rec: Recommender) -> object:
    histories = [[FIRST + item - 1 for item in row] for row in ROWS]
    return rec.recommend(histories=histories, k=9).to_dicts()


@pytest.mark.parametrize("make", [with_popularity, with_followers])
def test_saved_and_loaded_it_is_the_same(make, tmp_path: Path):
    rec = make()
    again = load(rec.save(tmp_path / "run"))
    assert type(again.added) is type(rec.added)
    assert again.added.config == rec.added.config
    assert again.provenance["added_score"]["name"] == rec.added.name
    assert again.state_digest == rec.state_digest
    assert frame(again) == frame(rec) != frame(recommender("elastic"))


def test_a_folder_without_one_is_as_ever(tmp_path: Path):
    plain = recommender("elastic")
    plain.save(tmp_path / "plain")
    with_popularity().save(tmp_path / "run")
    with_popularity().with_added_score(None).save(tmp_path / "run")
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "plain").iterdir())
    for name in names:
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    assert load(tmp_path / "run").added is None


def test_only_the_reach_changes_what_shapes_states():
    plain, popular, followers = recommender("elastic"), with_popularity(), with_followers()
    assert plain.state_digest == popular.state_digest == with_popularity(0.1).state_digest
    assert followers.state_digest != plain.state_digest
    assert len({rec.catalog_version for rec in (plain, popular, followers)}) == 1


@pytest.mark.parametrize("make", [with_popularity, with_followers])
def test_it_grows_with_the_catalog(make):
    rec = make()
    grown = rec.with_items([FIRST + N, FIRST + N + 1])
    assert grown.added.n_items == N + 2
    assert grown.state_digest == rec.state_digest
    assert grown.recommend(histories=[[FIRST + N, FIRST]], k=5).height == 5


def test_the_callers_own_score_is_not_the_recommenders():
    score = PopularityScore.of(np.arange(N))
    rec = recommender("elastic").with_added_score(score)
    before = frame(rec)
    score.counts[:] = 0
    assert frame(rec) == before


def test_evaluation_and_recommend_see_it_and_a_new_one_forgets_the_old_evaluation(tmp_path: Path):
    data = tiny_histories(tmp_path / "data", ROWS, n_items=N)
    rec = recommender("elastic")
    rec.catalog = data.catalog
    rec.save(tmp_path / "run")
    plain = longrec.evaluate(load(tmp_path / "run"), data)
    assert (tmp_path / "run" / "metrics.json").is_file()
    rec = rec.with_added_score(PopularityScore.of(data.catalog.counts, 50.0))
    rec.save(tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.json").is_file()
    heavy = longrec.evaluate(load(tmp_path / "run"), data)
    assert heavy["unfiltered/mrr@10"] != plain["unfiltered/mrr@10"]


def test_what_does_not_fit_or_is_not_known_is_refused(tmp_path: Path, monkeypatch):
    rec = recommender("elastic")
    with pytest.raises(UsageError, match=r"3 items, and the catalog has 40"):
        rec.with_added_score(PopularityScore.of(np.ones(3)))
    with pytest.raises(UsageError, match="'popularity': smoothing is -1; it must be above 0"):
        rec.with_added_score(PopularityScore(PopularityConfig(smoothing=-1), N))
    run = with_followers().save(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.delitem(ADDED_SCORES.data, "followers")
        with pytest.raises(DataError, match=r"no added score 'followers'.*popularity"):
            load(run)
    monkeypatch.setitem(ADDED_SCORES.data, "followers", PopularityScore)
    with pytest.raises(DataError, match="the added score 'followers' is not what"):
        load(run)


def test_a_damaged_score_is_told(tmp_path: Path):
    run = with_popularity().save(tmp_path / "run")
    assert "added_score.safetensors" in json.loads((run / "config.json").read_text())["digests"]
    (run / "added_score.safetensors").write_bytes(b"1234")
    with pytest.raises(DataError, match=r"added_score\.safetensors is not what was saved"):
        load(run)


def test_an_added_score_that_breaks_its_contract_is_refused(monkeypatch):
    class Twice(FollowersScore):
        """Gives an item twice."""

        def rows(self, recent):
            found = super().rows(recent)
            return type(found)(*(torch.cat([part, part]) for part in found))

    monkeypatch.setitem(ADDED_SCORES.data, "followers", Twice)
    Twice.name = "followers"
    with pytest.raises(UsageError, match="each pair once"):
        recommender("elastic").with_added_score(Twice.of([[1, 2, 3]], N))


def test_similar_items_are_by_vectors_without_the_bias(monkeypatch):
    register(monkeypatch)
    rec = recommender("elastic")
    plain = rec.similar(FIRST, 5).to_dicts()
    score = PopularityScore(PopularityConfig(weight=90.0), N)
    assert rec.with_added_score(score).similar(FIRST, 5).to_dicts() == plain
    for name in ("untied", "target-aware"):
        model = skeleton(name, N).float()
        made = Recommender(name, model, model.config, TrainConfig(), rec.catalog)
        if name == "untied":
            vectors = torch.nn.functional.normalize(model.output_items.detach(), dim=1)
            best = (vectors @ vectors[1])[2:].argmax() + 1 + FIRST
            assert made.similar(FIRST, 1)["item"].to_list() == [int(best)]
        else:
            with pytest.raises(UsageError, match="target-aware scores a user and an item together"):
                made.similar(FIRST, 5)


def test_new_items_of_a_model_with_two_tables_and_a_bias(monkeypatch):
    register(monkeypatch)
    model = skeleton("untied", N).float()
    rec = Recommender(
        "untied", model, model.config, TrainConfig(), recommender("elastic").catalog
    ).with_items([9001], torch.ones(1, 8))
    assert torch.equal(rec.model.items[-1], torch.ones(8))
    for table in (rec.model.output_items, rec.model.output_bias):
        torch.testing.assert_close(table[-1], table[1:-1].mean(0))


def test_new_items_of_a_model_that_does_not_name_a_table_by_item(monkeypatch):
    monkeypatch.setattr(MODELS, "data", dict(MODELS))
    register_model("table")(type("Table", (TableOfItsOwn,), {}))
    config = ToyConfig(dim=8)
    old = recommender("elastic").catalog
    rec = Recommender("table", build_model("table", config, N), config, TrainConfig(), old)
    with pytest.raises(UsageError, match=r"table: popularity .*name it in item_tables\(\)"):
        rec.with_items([9001])
