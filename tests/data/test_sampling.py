"""Sampled targets: how many, how often, and without repeats."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longrec.data.sampling import Masking, Prefixes


def test_prefixes_are_distinct_and_as_many_as_can_be():
    @settings(max_examples=60)
    @given(
        st.lists(st.integers(0, 40), min_size=1, max_size=12),
        st.integers(1, 50),
        st.integers(0, 5),
    )
    def check(most, number, seed):
        history, length = Prefixes(number).draw(np.random.default_rng(seed), np.array(most))
        assert (np.diff(history) >= 0).all()
        for n, possible in enumerate(most):
            drawn = length[history == n].tolist()
            assert len(set(drawn)) == len(drawn) == min(number, possible)
            assert all(1 <= one <= possible for one in drawn)

    check()


def test_every_prefix_is_equally_likely():
    """7 is no multiple of 4: arcs of unlike size must not favour any length."""
    most = np.full(40_000, 7)
    history, length = Prefixes(4).draw(np.random.default_rng(0), most)
    assert len(history) == 4 * 40_000
    share = np.bincount(length, minlength=8)[1:] / 40_000
    assert share == pytest.approx(4 / 7, abs=0.012)  # 5 standard deviations


@pytest.mark.parametrize(("share", "last"), [(0.2, 0.0), (0.2, 0.5), (0.01, 0.1), (0.9, 1.0)])
def test_hidden_events(share, last):
    lengths = np.random.default_rng(1).integers(2, 60, 4000)
    masking = Masking(share, last)
    hidden = masking.hide(np.random.default_rng(0), lengths)
    assert hidden.shape == (4000, lengths.max())
    assert (hidden.sum(1) >= 1).all()
    assert not (hidden & (np.arange(hidden.shape[1]) >= lengths[:, None])).any()
    assert hidden.sum() == pytest.approx(masking.expected(lengths), rel=0.04)
    alone = (hidden.sum(1) == 1) & hidden[np.arange(4000), lengths - 1]
    # Besides the rows drawn for it, the last event may be the only one by chance.
    by_chance = (1 - share) ** (lengths - 1) * (share + (1 - share) / lengths)
    assert alone.mean() == pytest.approx(float((last + (1 - last) * by_chance).mean()), abs=0.03)


def test_where_one_event_is_hidden_each_is_equally_likely():
    lengths = np.full(30_000, 5)
    hidden = Masking(1e-9, 0.0).hide(np.random.default_rng(0), lengths)
    assert (hidden.sum(1) == 1).all()
    assert hidden.mean(0) == pytest.approx(0.2, abs=0.012)


def test_nothing_is_expected_of_rows_that_are_not_read():
    assert Masking(0.2, 0.1).expected(np.array([0, 0])) == 0.0
    assert Masking(0.2, 1.0).expected(np.array([0, 5, 9])) == 2.0
