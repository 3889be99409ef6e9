"""Coverage, novelty, Gini and popularity bias of lists, by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from longrec.data.splits import Targets
from longrec.evaluation.beyond_accuracy import beyond_accuracy, gini
from longrec.evaluation.served_lists import mean_popularity

COUNTS = np.array([8, 4, 4, 0])


def test_by_hand():
    lists = np.array([[1, 2], [1, 4], [3, 0]])
    found = beyond_accuracy(lists, COUNTS, np.array([4.0, 4.0, np.nan]), [1, 2])
    assert list(found) == [
        f"{name}@{k}" for k in (1, 2) for name in ("coverage", "novelty", "gini", "popularity_bias")
    ]
    assert found["coverage@1"] == 2 / 4
    assert found["coverage@2"] == 4 / 4
    assert found["novelty@1"] == pytest.approx((1 + 1 + 2) / 3)
    # An item without events counts as one of one in 16: 4 bits; the short list has one item.
    assert found["novelty@2"] == pytest.approx((1.5 + 2.5 + 2) / 3)
    assert found["popularity_bias@1"] == pytest.approx((8 + 8 + 4) / 3 / 4 - 1)
    assert found["popularity_bias@2"] == pytest.approx((6 + 4 + 4) / 3 / 4 - 1)


def test_gini_goes_from_all_alike_to_one_alone():
    assert gini(np.array([5, 5, 5, 5])) == 0
    assert gini(np.array([0, 9, 0, 0])) == pytest.approx(1)
    assert gini(np.array([0, 0])) == 0
    assert 0 < gini(np.array([1, 2, 3, 4])) < 1


def test_popularity_of_inputs_is_of_what_stands_before_the_targets():
    log = SimpleNamespace(offsets=np.array([0, 3, 5]), items=np.array([1, 2, 4, 3, 1]))
    targets = Targets(*map(np.array, ([0, 0, 1], [1, 2, 3], [2, 4, 3], [True] * 3)))
    found = mean_popularity(log, targets, COUNTS)  # type: ignore[arg-type]
    assert found[:2].tolist() == [8.0, 6.0]
    assert np.isnan(found[2])
