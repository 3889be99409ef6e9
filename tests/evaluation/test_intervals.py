"""Bootstrap intervals: they cover, they repeat, they see pairs and clusters."""

from __future__ import annotations

import numpy as np
import pytest

from longrec.evaluation import intervals
from longrec.evaluation.intervals import bootstrap_interval, paired_bootstrap


def test_covers_the_true_mean_about_95_times_in_100():
    generator = np.random.default_rng(0)
    hits = 0
    for trial in range(300):
        sample = generator.random(200) < 0.3
        low, high = bootstrap_interval(sample, seed=trial, draws=200)
        hits += low <= 0.3 <= high
    assert 0.91 <= hits / 300 <= 0.985


def test_width_is_that_of_the_normal_approximation():
    sample = np.random.default_rng(1).random(5000) < 0.2
    low, high = bootstrap_interval(sample, draws=4000)
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.16 / 5000), rel=0.06)
    assert low < sample.mean() < high


def test_one_column_per_metric_and_the_same_interval_alone():
    sample = np.random.default_rng(2).integers(0, 3, (400, 2)).astype(float)
    both = bootstrap_interval(sample)
    assert both.shape == (2, 2)
    assert bootstrap_interval(sample[:, 0]).shape == (2,)
    assert both[:, 0] == pytest.approx(bootstrap_interval(sample[:, 0]), abs=0.05)


def test_the_same_seed_gives_the_same_interval_whatever_the_block(monkeypatch):
    sample = np.random.default_rng(3).random(50)
    expected = bootstrap_interval(sample, seed=5)
    assert (bootstrap_interval(sample, seed=5) == expected).all()
    assert (bootstrap_interval(sample, seed=6) != expected).any()
    monkeypatch.setattr(intervals, "_BLOCK_CELLS", 7 * 50)
    assert (bootstrap_interval(sample, seed=5) == expected).all()


def test_order_of_the_targets_does_not_matter():
    sample = np.random.default_rng(4).integers(0, 5, 300) / 5
    assert (bootstrap_interval(sample) == bootstrap_interval(sample[::-1])).all()


def test_constant_values_have_no_width():
    assert bootstrap_interval(np.full(20, 0.25)).tolist() == [0.25, 0.25]


def test_clusters_widen_what_repeats_itself():
    people = np.random.default_rng(5).random(100)
    values, owner = np.repeat(people, 50), np.repeat(np.arange(100), 50)
    naive, honest = bootstrap_interval(values), bootstrap_interval(values, owner)
    alone = bootstrap_interval(people, draws=4000)
    assert np.diff(honest) > 4 * np.diff(naive)  # 50 copies of a user say no more than one
    assert np.diff(honest) == pytest.approx(np.diff(alone), rel=0.12)


def test_clusters_of_different_size_weigh_by_their_targets():
    values = np.array([1.0, 0, 0, 0])
    low, high = bootstrap_interval(values, [7, 9, 9, 9])
    assert (low, high) == (0.0, 1.0)  # only the small user, only the large one, or both: .25


def test_pairs_show_what_two_intervals_hide():
    generator = np.random.default_rng(6)
    hard = generator.random(500)
    a, b = hard + 0.01 + 0.02 * generator.standard_normal(500), hard
    difference = paired_bootstrap(a, b)
    assert difference.clear
    assert difference.mean == pytest.approx((a - b).mean())
    assert difference.low < difference.mean < difference.high
    assert difference.p_value < 0.01
    low_a, high_b = bootstrap_interval(a)[0], bootstrap_interval(b)[1]
    assert low_a < high_b  # unpaired they overlap


def test_equal_models_do_not_differ():
    values = np.random.default_rng(7).random(100)
    difference = paired_bootstrap(values, values)
    assert (difference.mean, difference.low, difference.high) == (0, 0, 0)
    assert difference.p_value == 1
    assert not difference.clear


def test_no_difference_is_called_clear_about_one_time_in_twenty():
    generator = np.random.default_rng(8)
    found = [
        paired_bootstrap(generator.random(80), generator.random(80), draws=200, seed=seed)
        for seed in range(200)
    ]
    p_values = np.array([difference.p_value for difference in found])
    assert sum(difference.clear for difference in found) <= 20
    for level, most in ((0.05, 0.1), (0.25, 0.33), (0.5, 0.6)):  # as often as a p-value says
        assert level / 2 < (p_values <= level).mean() < most


def test_a_p_value_is_two_sided_and_ends_where_its_draws_do():
    better, worse = np.ones(50), np.zeros(50)
    for draws in (99, 1999):
        assert paired_bootstrap(better, worse, draws=draws).p_value == 2 / (draws + 1)
        assert paired_bootstrap(worse, better, draws=draws).p_value == 2 / (draws + 1)
    a, b = np.random.default_rng(9).random((2, 200))
    exact = paired_bootstrap(a, b, draws=20_000).p_value
    known = 3 * np.sqrt(2 * exact / 2000)
    assert all(abs(paired_bootstrap(a, b, seed=s).p_value - exact) < known for s in range(5))


def test_what_cannot_be_resampled_is_refused():
    with pytest.raises(ValueError, match="at least one target"):
        bootstrap_interval(np.empty((0, 3)))
    with pytest.raises(ValueError, match="two equal rows"):
        paired_bootstrap([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="at least one draw"):
        bootstrap_interval([1.0], draws=0)
