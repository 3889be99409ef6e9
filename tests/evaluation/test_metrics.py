"""Metrics: golden values by hand, and agreement with scikit-learn's own definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longrec.evaluation import metrics


def test_golden_values():
    ranks = [1, 2, 3, 10, 11]
    assert metrics.ndcg(ranks, 10) == pytest.approx([1, 0.6309297536, 0.5, 0.2890648263, 0])
    assert metrics.hr(ranks, 10).tolist() == [1, 1, 1, 1, 0]
    assert metrics.mrr(ranks, 10) == pytest.approx([1, 1 / 2, 1 / 3, 1 / 10, 0])
    assert metrics.ndcg([3], 3) == pytest.approx([0.5])
    assert metrics.ndcg([4], 3) == pytest.approx([0])


def test_a_perfect_hit_scores_one_at_every_cutoff():
    assert set(metrics.summarise([1, 1, 1]).values()) == {1.0}


def test_a_miss_scores_zero():
    assert set(metrics.summarise([metrics.MISS]).values()) == {0.0}


def test_summarise_has_the_public_keys_in_order():
    summary = metrics.summarise([1, 15])
    assert list(summary)[:4] == ["ndcg@10", "hr@10", "mrr@10", "ndcg@20"]
    assert len(summary) == 9
    assert summary["hr@10"] == 0.5
    assert summary["hr@20"] == 1.0
    assert summary["ndcg@20"] == pytest.approx((1 + 0.25) / 2)
    assert np.isnan(metrics.summarise([])["ndcg@10"])


@pytest.mark.parametrize("ranks", [[0], [-3, 1], [1.5], [np.nan]])
def test_what_is_no_rank_is_refused(ranks: list[float]):
    with pytest.raises(ValueError, match="ranks"):
        metrics.summarise(ranks)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 5, 10]))
def test_equals_scikit_learn_over_whole_score_matrices(seed: int, k: int):
    from sklearn import metrics as theirs  # here, since whoever collects tests would wait for it

    generator = np.random.default_rng(seed)
    users, items = 20, 40
    scores = generator.permuted(np.tile(np.arange(items, dtype=float), (users, 1)), axis=1)
    targets = generator.integers(0, items, users)
    relevant = np.zeros((users, items))
    relevant[np.arange(users), targets] = 1
    ranks = (scores > scores[np.arange(users), targets][:, None]).sum(axis=1) + 1
    assert metrics.ndcg(ranks, k).mean() == pytest.approx(theirs.ndcg_score(relevant, scores, k=k))
    assert metrics.hr(ranks, k).mean() == pytest.approx(
        theirs.top_k_accuracy_score(targets, scores, k=k, labels=np.arange(items))
    )
    # with one relevant item the label ranking average precision is the reciprocal rank, uncut
    assert metrics.mrr(ranks, items).mean() == pytest.approx(
        theirs.label_ranking_average_precision_score(relevant, scores)
    )
