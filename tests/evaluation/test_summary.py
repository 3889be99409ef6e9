"""Summaries: from ranks to the numbers of a table, by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from longrec.core.errors import DataError, UsageError
from longrec.evaluation.baseline import Baseline
from longrec.evaluation.metrics import MISS
from longrec.evaluation.summary import Metrics, as_served, compare_ranks, summarise_ranks


def frame(ranks: list[int], unfiltered: list[int] | None = None, **columns: object) -> pl.DataFrame:
    n = len(ranks)
    return pl.DataFrame(
        {
            "user": np.arange(n),
            "position": np.arange(n) * 10 + 9,
            "length": np.full(n, 30),
            "rank_served": ranks,
            "rank": ranks,
            "rank_unfiltered": unfiltered or ranks,
            "known": np.ones(n, dtype=bool),
            "repeat": np.zeros(n, dtype=bool),
            **columns,
        }
    )


def test_metrics_by_hand():
    made = summarise_ranks(frame([1, 3, 11, 60], [2, 3, 21, 70]), "leave-one-out")
    assert made["ndcg@10"] == pytest.approx((1 + 0.5) / 4)
    assert made["hr@10"] == 0.5
    assert made["hr@20"] == 0.75
    assert made["mrr@10"] == pytest.approx((1 + 1 / 3) / 4)
    assert made["unfiltered/ndcg@10"] == pytest.approx((0.6309297536 + 0.5) / 4)
    assert made["unfiltered/hr@20"] == 0.5
    assert made["unfiltered/hr@50"] == 0.75
    assert made["served/ndcg@10"] == made["ndcg@10"]
    assert len(made) == len(list(made)) == 27
    assert made.counts == {"users": 4, "targets": 4, "unseen_misses": 0, "repeats": 0}
    for key, value in made.items():
        low, high = made.intervals[key]
        assert 0 <= low <= value <= high <= 1


def test_targets_unknown_to_training_are_misses():
    made = summarise_ranks(frame([1, 1], known=[True, False]), "global-time")
    assert made["hr@10"] == made["unfiltered/hr@10"] == 0.5
    assert made["served/hr@10"] == 1  # where its place in the list counts
    assert made.counts["unseen_misses"] == 1


def test_as_served_a_policy_chooses_the_rank():
    both = frame([1, 1], rank_hiding=[2, MISS], rank_showing=[3, 4]).drop("rank_served")
    hidden = summarise_ranks(as_served(both, True), "leave-one-out", exclude_seen=True)
    shown = summarise_ranks(as_served(both, False), "leave-one-out", exclude_seen=False)
    assert hidden["served/mrr@10"] == 1 / 4
    assert shown["served/mrr@10"] == pytest.approx((1 / 3 + 1 / 4) / 2)
    assert hidden["mrr@10"] == shown["mrr@10"] == 1
    assert "without items that a user has seen" in hidden.statement()
    assert "with items that a user has seen" in shown.statement()


def test_ks_are_chosen_and_keys_follow():
    made = summarise_ranks(frame([1, 3, 11, 60]), "leave-one-out", ks=(1, 3))
    assert made["served/hr@1"] == made["unfiltered/hr@1"] == 1 / 4
    assert made["served/hr@3"] == 1 / 2
    assert made.leading == "served/ndcg@1"
    assert {key.partition("@")[2] for key in made} == {"1", "3"}
    assert compare_ranks(frame([1, 9]), frame([9, 9]), "served/hr@7").mean == 1 / 2
    lead = compare_ranks(frame([1, 9]), frame([9, 9]))
    own = Baseline(
        estimates={"served/ndcg@1": 0.5}, intervals={}, exclude_seen=True, targets=2, of=4,
        metric="served/ndcg@1", lead=lead,
    )  # fmt: skip
    back = Metrics.from_dict(
        json.loads(json.dumps(replace(made, baselines={"popularity": own}).to_dict()))
    )
    assert dict(back.baselines["popularity"]) == dict(own)
    assert back.baselines["popularity"].lead == lead
    assert own.verdict in ("yes", "not clear")


def buckets(counts: dict[int, int]) -> list[tuple[str, int, float]]:
    """Of so many targets with each number of events before them; those of short ones are hits."""
    lengths = [length for length, count in counts.items() for _ in range(count)]
    ranks = [1 if length < 100 else 99 for length in lengths]
    made = summarise_ranks(frame(ranks, length=lengths), "leave-one-out", draws=50)
    return [(b.label, b.targets, b.estimates["hr@10"]) for b in made.buckets]


def test_buckets_by_events_before_the_target():
    found = buckets({1: 150, 19: 50, 20: 200, 49: 9, 200: 200, 1000: 150, 5000: 60})
    assert found == [
        ("1-19", 200, 1.0),
        ("20-49", 209, 1.0),
        ("200-499", 200, 0),
        ("1000+", 210, 0),
    ]


def test_buckets_of_few_targets_are_merged_with_their_neighbours():
    found = buckets({5: 199, 30: 100, 120: 300, 250: 199})
    assert found == [("1-49", 299, 1.0), ("100-499", 499, 0)]
    assert buckets({30: 50, 1000: 50}) == [("20+", 100, 0.5)]


def test_users_with_several_targets_are_drawn_whole():
    ranks = [1] * 20 + [99] * 20
    one_each = summarise_ranks(frame(ranks), "prequential")
    two_users = summarise_ranks(frame(ranks, user=[0] * 20 + [1] * 20), "prequential")
    assert two_users["hr@10"] == one_each["hr@10"] == 0.5
    assert two_users.intervals["hr@10"] == (0.0, 1.0)
    assert one_each.intervals["hr@10"][0] > 0.2
    assert two_users.counts["users"] == 2


def test_to_dict_and_back_through_json():
    notes = {"users_too_short": 7, "test_unseen_share": 0.25}
    made = summarise_ranks(frame([1, 3, 11]), "leave-one-out", notes, split="test")
    text = json.loads(json.dumps(made.to_dict()))
    assert text["ndcg@10"] == made["ndcg@10"]
    assert text["buckets"][0]["label"] == "20-49"
    assert text["information"] == "strict"
    assert list(text["candidates"].values()) == ["as served", "seen items filtered", "unfiltered"]
    back = Metrics.from_dict(text)
    assert dict(back) == dict(made)
    assert back.intervals == made.intervals
    assert back.buckets == made.buckets
    assert back.to_dict() == made.to_dict()
    with pytest.raises(DataError, match="not metrics"):
        Metrics.from_dict({"ndcg@10": 0.1})


def test_protocol_says_what_was_left_out():
    notes = {"users_too_short": 1234, "test_unseen_share": 0.25}
    text = summarise_ranks(frame([1, 3]), "leave-one-out", notes).statement()
    for words in ("Leave-one-out", "1,234 users are too short", "whole catalog", "25.00%", "ties"):
        assert words in text
    cut = {"test_cut": 900, "validation_cut": 800, "users_without_input_at_test": 3}
    text = summarise_ranks(frame([1, 3]), "global-time", cut).statement()
    assert "1970-01-01 00:15:00" in text
    assert "3 users have no event" in text
    text = summarise_ranks(
        frame([1]), "prequential", {"last_share": 0.2, "min_length": 501}
    ).statement()
    assert "501 events" in text
    text = summarise_ranks(frame([1]), "leave-one-out", split="validation").statement()
    assert text.startswith("Validation targets")


def test_compare_pairs_the_same_targets_in_any_order():
    generator = np.random.default_rng(0)
    ranks = generator.integers(1, 40, 400)
    better, worse = frame(np.maximum(ranks - 2, 1).tolist()), frame(ranks.tolist())
    difference = compare_ranks(better, worse.reverse(), "ndcg@10")
    assert difference.clear
    assert difference.mean > 0
    expected = summarise_ranks(better, "x")["ndcg@10"] - summarise_ranks(worse, "x")["ndcg@10"]
    assert difference.mean == pytest.approx(expected)
    assert compare_ranks(worse, worse, "unfiltered/hr@20").p_value == 1
    with pytest.raises(UsageError, match="same targets"):
        compare_ranks(better, worse.head(399))
    with pytest.raises(UsageError, match="unknown metric 'recall@7'"):
        compare_ranks(better, worse, "recall@7")


def test_unusable_ranks_are_refused():
    with pytest.raises(DataError, match="no column known, repeat"):
        summarise_ranks(frame([1]).drop("known", "repeat"), "leave-one-out")
    with pytest.raises(DataError, match="no target to evaluate"):
        summarise_ranks(frame([1]).head(0), "leave-one-out")


def test_seeds_are_averaged_per_target_and_users_are_drawn_once():
    random = np.random.default_rng(0)
    seeds = [frame(random.integers(1, 30, 300).tolist()) for _ in range(3)]
    made, alone = (
        summarise_ranks(seeds, "leave-one-out", draws=400),
        [summarise_ranks(ranks, "leave-one-out", draws=400) for ranks in seeds],
    )
    assert made["ndcg@10"] == pytest.approx(np.mean([m["ndcg@10"] for m in alone]))
    assert made.counts == alone[0].counts
    assert made.buckets[0].targets == 300

    def width(metrics: Metrics) -> float:
        low, high = metrics.intervals["ndcg@10"]
        return high - low

    assert width(made) < min(map(width, alone))  # the mean of independent seeds is surer
    same = summarise_ranks([seeds[0]] * 3, "leave-one-out", draws=400)
    assert same.intervals["ndcg@10"] == pytest.approx(alone[0].intervals["ndcg@10"])
    with pytest.raises(UsageError, match="not ranked on the same targets"):
        summarise_ranks([seeds[0], seeds[1].head(299)], "leave-one-out")


def test_seeds_are_compared_by_their_mean():
    random = np.random.default_rng(1)
    a, b = ([frame(random.integers(1, most, 300).tolist()) for _ in range(2)] for most in (20, 25))
    means = [
        np.mean([summarise_ranks(f, "x", draws=9)["hr@10"] for f in frames]) for frames in (a, b)
    ]
    shuffled = [ranks.sample(fraction=1.0, shuffle=True, seed=0) for ranks in b]
    found = compare_ranks(a, shuffled, "hr@10")
    assert found.mean == pytest.approx(means[0] - means[1])
    assert found == compare_ranks(a, b, "hr@10")
