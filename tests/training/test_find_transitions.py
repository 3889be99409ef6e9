"""What followed users' last items: found on validation, kept, told of, and counted in refits."""

from __future__ import annotations

import pytest
from cli.running import longrec as longrec_cli

import longrec
from longrec.artifact.policy import transitions_line
from longrec.core.errors import UsageError
from longrec.data.splits import make_split
from longrec.evaluation.metrics import ndcg
from longrec.evaluation.rank_targets import rank_targets
from longrec.models.common.scorer import Scorer
from longrec.retrieval import around
from longrec.training import transitions
from longrec.training.transitions import WEIGHTS, Known, count_transitions

TINY = {"dim": 8, "max_epochs": 1, "dropout": 0.0, "seed": 3}


@pytest.fixture
def data(make_histories, ring):
    return make_histories(ring(60, 40, 6, 15))


@pytest.fixture
def untrained(data):
    return longrec.train(data, "elastic", layers=1, experts=4, **TINY | {"max_epochs": 0})


@pytest.mark.parametrize("model", ["elastic", "bert4rec", "dfar"])
@pytest.mark.parametrize("policy", [True, False, "auto"])
def test_a_weight_is_worth_what_the_ranks_say(data, model, policy, monkeypatch):
    sampled = {"loss": "sampled"} if model == "dfar" else {}
    rec = longrec.train(data, model, transitions=0, **sampled, **TINY)
    assert rec.added is None
    split = make_split("leave-one-out", data)
    counted = count_transitions(data, split, last=3, decay=0.5)
    known = Known.of(rec.model, data, split.validation, None)
    found = known.quality(counted, WEIGHTS, policy)
    with monkeypatch.context() as patch:  # users and items in small blocks
        patch.setattr(around, "NARROWEST", 7)
        patch.setattr(around, "BLOCK", 1)
        patch.setattr(transitions, "CELLS", 100)
        assert known.quality(counted, WEIGHTS, policy) == pytest.approx(found)
    for number in (0, 3, len(WEIGHTS) - 1):
        scorer = Scorer(rec.model, counted.weighted(WEIGHTS[number]))
        ranks = rank_targets(scorer, data, split.validation)
        hiding, showing = (
            ndcg(ranks[f"rank_{one}"].to_numpy(), 10).sum() for one in ("hiding", "showing")
        )
        wanted = max(hiding, showing) if policy == "auto" else (hiding if policy else showing)
        assert found[number] == pytest.approx(wanted)


def test_they_are_kept_where_they_serve_better(data, untrained, tmp_path):
    about = untrained.provenance["transitions"]
    assert about["ndcg10_with"] > 3 * about["ndcg10_without"]
    assert (about["last"], about["decay"]) in ((5, 0.6), (10, 0.8))
    assert untrained.added.config.weight == about["weight"] > 0
    assert about["low"] < about["ndcg10_with"] - about["ndcg10_without"] < about["high"]
    served = untrained.provenance["training"]["validation"]["served/ndcg@10"]
    assert served == about["ndcg10_with"]
    assert longrec.evaluate(untrained, data, "validation")["served/ndcg@10"] == pytest.approx(
        served
    )
    assert f"weight {about['weight']:g}" in transitions_line(untrained)
    untrained.save(tmp_path / "run")
    again = longrec.load(tmp_path / "run")
    assert again.added.config == untrained.added.config
    lists = [
        rec.recommend(users=["user00000", "user00007"], data=data, k=5)
        for rec in (untrained, again)
    ]
    assert lists[0].equals(lists[1])


def test_they_are_left_out_where_they_serve_no_better(make_histories):
    data = make_histories([[(a + t) % 12 + 1 for t in range(7)] for a in range(12)] * 3)
    settings = {"dim": 16, "dropout": 0.0, "learning_rate": 0.02, "average": 0.9, "max_epochs": 30}
    rec = longrec.train(data, "elastic", layers=1, experts=2, heads=1, **settings)
    about = rec.provenance["transitions"]
    assert about["ndcg10_without"] == 1 >= about["ndcg10_with"]
    assert about["weight"] == 0
    assert rec.added is None
    assert transitions_line(rec).startswith("transitions: none, since they serve the 36 validation")
    assert longrec.refit(rec).added is None


def test_how_many_items_are_read_may_be_said(data):
    rec = longrec.train(data, "gru4rec", transitions=7, **TINY)
    assert rec.added.config.last == rec.added.reach == 7
    with pytest.raises(UsageError, match=r"transitions is 101; it must be .*100"):
        longrec.train(data, "gru4rec", transitions=101)
    with pytest.raises(UsageError, match=r"transitions is 'many'; it must be an integer .* 'auto'"):
        longrec.train(data, "gru4rec", transitions="many")


def test_of_a_large_catalog_each_item_keeps_fewer_followers(data, monkeypatch):
    monkeypatch.setattr(transitions, "MOST_PAIRS", 3 * data.n_items + 1)
    rec = longrec.train(data, "gru4rec", transitions=5, **TINY)
    assert rec.added.config.followers == 3
    assert int(rec.added.starts.diff().max()) == 3
    assert longrec.refit(rec).added.config.followers == 3


def test_a_papers_recipe_adds_nothing(data):
    rec = longrec.train(data, "sasrec", recipe="paper", max_epochs=0)
    assert rec.train_config.transitions == 0
    assert rec.added is None
    assert longrec.train(data, "popularity", transitions=5).added is None


def test_a_final_run_counts_all_events(data, untrained):
    split = make_split("leave-one-out", data)
    warm = longrec.train(data, "elastic", layers=1, experts=4, **TINY)
    final = longrec.refit(warm)
    assert final.added.config == warm.added.config
    assert int(warm.added.counts.sum()) == data.n_events - 2 * data.n_users
    assert int(final.added.counts.sum()) == data.n_events
    everything = count_transitions(data, make_split("all", data), last=1, decay=1.0)
    assert int(everything.times.sum()) == data.n_events - data.n_users
    assert int(count_transitions(data, split, last=1, decay=1.0).times.sum()) == (
        data.n_events - 3 * data.n_users
    )


def test_an_explanation_says_what_followed_what(data, untrained):
    history = [1001, 1002, 1003, 1009]
    found = untrained.explain(1004, history=history)
    assert found.followed["item"].to_list() == [1009, 1003, 1002, 1001]
    items, ends = data.items.tolist(), data.offsets[1:] - 2
    config = untrained.added.config
    for item, times in found.followed.rows():
        wanted = sum(
            config.decay ** (k - 1)
            for begin, end in zip(data.offsets[:-1].tolist(), ends.tolist(), strict=True)
            for at in range(begin, end)
            for k in range(1, config.last + 1)
            if at + k < end and items[at] == item - 999 and items[at + k] == 5
        )
        assert times == pytest.approx(wanted)
    told = found.to_dict()
    assert [row["item"] for row in told["followed"]] == [1009, 1003, 1002, 1001]
    assert not len(untrained.with_added_score(None).explain(1004, history=history).followed)


@pytest.mark.parametrize("name", ["hydrarec", "bert4rec", "limarec", "dfar"])
def test_of_any_model_it_is_told_what_counting_adds(data, name, capsys, tmp_path):
    sampled = {"loss": "sampled"} if name == "dfar" else {}
    rec = longrec.train(data, name, tmp_path / "run", **TINY | sampled | {"transitions": 5})
    history = [1001, 1002, 1003, 1009]
    found = rec.explain(1004, history=history)
    lists = rec.recommend(histories=[history], k=data.n_items, exclude_seen=False)
    of_item = lists.filter(lists["item"] == 1004)["score"]
    assert found.score == pytest.approx(of_item.item(), abs=1e-5)
    bare = rec.with_added_score(None)
    alone = bare.recommend(histories=[history], k=data.n_items, exclude_seen=False)
    assert found.rest == pytest.approx(
        alone.filter(alone["item"] == 1004)["score"].item(), abs=1e-5
    )
    assert found.followed["item"].to_list() == [1009, 1003, 1002, 1001]
    assert not found.tells_attention
    told = found.to_dict(top=2)
    assert [event["item"] for event in told["events"]] == [1009, 1003], "the newest first"
    assert told["events"][0]["attention"] is None
    with pytest.raises(UsageError, match=f"not available for {name}: "):
        bare.explain(1004, history=history)
    assert longrec_cli("explain", tmp_path / "run", "--item", 1004, "--user", "user00000") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "comes from the added score" in printed
    assert f"How {name} weighed each event is not known" in printed
