"""Every pair compared, and p-values that stand together."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from longrec.evaluation.intervals import holm
from longrec.evaluation.report.pairs import compare_pairs


def frame(ranks: np.ndarray) -> pl.DataFrame:
    n = len(ranks)
    return pl.DataFrame(
        {
            "user": np.arange(n),
            "position": np.arange(n),
            "length": np.full(n, 30),
            "rank_served": ranks,
            "rank": ranks,
            "rank_unfiltered": ranks,
            "known": np.ones(n, dtype=bool),
            "repeat": np.zeros(n, dtype=bool),
        }
    )


def test_holm_by_hand():
    # .01 x 4, .03 x 2, .04 x 1 raised to .06, .02 x 3
    assert holm([0.01, 0.03, 0.04, 0.02]).tolist() == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert holm([0.9, 0.8]).tolist() == [1.0, 1.0]
    assert holm([]).tolist() == []


def test_p_values_are_between_rows_that_are_tested_and_corrected_for_their_pairs():
    random = np.random.default_rng(0)
    good, bad = random.integers(1, 8, 400), random.integers(1, 30, 400)
    ranks = {"good": frame(good), "same": frame(random.permutation(good)), "bad": frame(bad)}
    pairs = {(p.a, p.b): p for p in compare_pairs(ranks, "ndcg@10", {"good", "same", "bad"})}
    assert list(pairs) == [("good", "same"), ("good", "bad"), ("same", "bad")]
    clear, close = pairs["good", "bad"], pairs["good", "same"]
    assert clear.p_value == pytest.approx(3 * clear.difference.p_value)
    assert clear.p_value < 0.05 < close.p_value
    apart = {(p.a, p.b): p for p in compare_pairs(ranks, "ndcg@10", {"good", "same"})}
    assert apart["good", "bad"].p_value is None
    assert apart["good", "bad"].difference == clear.difference
    assert apart["good", "same"].p_value == apart["good", "same"].difference.p_value
    turned = clear.difference.reversed()
    assert (turned.low, turned.high) == (-clear.difference.high, -clear.difference.low)
