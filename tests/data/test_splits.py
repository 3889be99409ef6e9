"""Splits: golden positions by hand, and what must hold for every set of histories."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longrec.core.errors import UsageError
from longrec.data import splits
from longrec.data.splits import (
    PROTOCOLS,
    global_time,
    leave_one_out,
    make_split,
    prequential,
    repeats,
)


@dataclass
class Logs:
    """The part of ``Histories`` that a split reads."""

    offsets: np.ndarray
    items: np.ndarray
    times: np.ndarray | None
    n_items: int
    path: Path = Path("histories")


def logs(items: list[list[int]], times: list[list[int]] | None = None) -> Logs:
    lengths = [len(history) for history in items]
    flat = np.array([item for history in items for item in history], dtype=np.int32)
    moments = None if times is None else np.array([t for row in times for t in row], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Logs(offsets, flat, moments, int(flat.max(initial=0)))


@st.composite
def any_logs(draw: st.DrawFn, max_length: int = 12) -> Logs:
    lengths = draw(st.lists(st.integers(1, max_length), min_size=1, max_size=8))
    items = [draw(st.lists(st.integers(1, 6), min_size=n, max_size=n)) for n in lengths]
    times = [sorted(draw(st.lists(st.integers(0, 9), min_size=n, max_size=n))) for n in lengths]
    return logs(items, times)


def test_leave_one_out_with_lengths_one_two_three_and_four():
    split = leave_one_out(logs([[1], [1, 2], [1, 2, 3], [1, 2, 3, 1]]))
    assert split.train_end.tolist() == [1, 3, 4, 8]
    assert split.validation.users.tolist() == [2, 3]
    assert split.validation.positions.tolist() == [4, 8]
    assert split.test.positions.tolist() == [5, 9]
    assert split.test.known.all()
    assert split.notes["users_too_short"] == 2
    assert split.notes["training_events"] == 1 + 2 + 1 + 2
    assert split.notes["test_unseen_share"] == 0.5  # item 3 is nobody's training event
    assert split.notes["test_repeat_share"] == 0.5
    assert split.test.lengths(np.array([0, 1, 3, 6, 10])).tolist() == [2, 3]


def test_leave_one_out_needs_no_times_and_may_have_no_target():
    split = leave_one_out(logs([[1], [2, 3]]))
    assert len(split.test) == len(split.validation) == 0
    assert split.notes["test_repeat_share"] == 0.0


def test_global_time_by_hand():
    # ten events; the .8 quantile is the ninth smallest time, the .9 quantile the tenth
    histories = logs(
        [[1, 2, 3, 4], [5, 1, 9], [2, 3], [6]],
        [[0, 1, 20, 30], [2, 3, 20], [4, 5], [6]],
    )
    split = global_time(histories)
    assert (split.notes["validation_cut"], split.notes["test_cut"]) == (20, 30)
    assert split.train_end.tolist() == [2, 6, 9, 10]
    assert split.validation.positions.tolist() == [2, 6]
    assert split.validation.known.tolist() == [True, False]  # 3 trains with user 2; 9 nowhere
    assert split.test.users.tolist() == [0]
    assert split.test.positions.tolist() == [3]
    assert split.test.known.tolist() == [False]
    assert split.notes["users_ended_before_test_cut"] == 3


def test_global_time_puts_ties_at_the_cut_after_it(monkeypatch):
    monkeypatch.setattr(splits, "CUTS", (0.4, 0.6))
    histories = logs([[1, 2, 3, 4], [1, 2, 3, 4, 5, 6]], [[0, 1, 5, 5], [0, 1, 2, 5, 5, 5]])
    split = global_time(histories)
    assert (split.notes["validation_cut"], split.notes["test_cut"]) == (2, 5)
    assert split.train_end.tolist() == [2, 6]
    assert split.test.positions.tolist() == [2, 7]  # the first of the tied events, in log order
    assert split.validation.positions.tolist() == [6]


def test_global_time_leaves_out_and_counts_users_who_start_after_the_cut():
    histories = logs([[1] * 9, [2]], [list(range(9)), [100]])
    split = global_time(histories)
    assert split.test.users.tolist() == []
    assert split.notes["users_without_input_at_test"] == 1


def test_global_time_is_cut_at_dates():
    day = 86_400
    histories = logs([[1, 2, 3, 4], [1, 2, 3]], [[0, day, 2 * day, 3 * day], [0, day, 5 * day]])
    split = make_split("global-time", histories, "1970-01-02,1970-01-03")
    assert (split.notes["validation_cut"], split.notes["test_cut"]) == (day, 2 * day)
    assert split.train_end.tolist() == [1, 5]
    assert split.test.positions.tolist() == [2, 6]
    # One date: of the four events before it, eight ninths come before the validation cut.
    split = make_split("global-time", histories, "1970-01-03")
    assert (split.notes["validation_cut"], split.notes["test_cut"]) == (day, 2 * day)
    with pytest.raises(UsageError, match=r"no event lies before the validation cut.*cut later"):
        make_split("global-time", histories, "1970-01-01,1970-01-03")
    with pytest.raises(UsageError, match="dates cut the protocol global-time alone"):
        make_split("leave-one-out", histories, "1970-01-03")
    with pytest.raises(UsageError, match="cut is 'soon'; it must be a date"):
        make_split("global-time", histories, "soon")


def test_global_time_refuses_what_it_cannot_split():
    with pytest.raises(UsageError, match=r"global-time' needs times.*leave-one-out"):
        global_time(logs([[1, 2, 3]]))
    with pytest.raises(UsageError, match="too many events share one time"):
        global_time(logs([[1, 2, 3]], [[7, 7, 7]]))


def test_prequential_by_hand(monkeypatch):
    monkeypatch.setattr(splits, "LONG", 10)
    histories = logs([[1, 2, 3, 4, 5, 6, 7, 8, 9, 1], [1, 2, 3], [1, 2]])
    split = prequential(histories)
    assert split.train_end.tolist() == [7, 12, 15]
    assert split.validation.positions.tolist() == [7, 12]
    assert split.test.users.tolist() == [0, 0]
    assert split.test.positions.tolist() == [8, 9]
    assert split.test.known.tolist() == [False, True]
    assert split.notes["test_targets"] == 2
    assert split.notes["test_users"] == 1
    assert split.notes["test_repeat_share"] == 0.5


def test_prequential_by_default_means_over_500_events():
    split = prequential(logs([[1] * 501, [1] * 500]))
    assert np.unique(split.test.users).tolist() == [0]
    assert len(split.test) == 100
    with pytest.raises(UsageError, match="the longest has 500"):
        prequential(logs([[1] * 500]))


def test_make_split_knows_its_names():
    assert make_split("leave-one-out", logs([[1, 2, 3]])).protocol == "leave-one-out"
    with pytest.raises(UsageError, match=r"unknown protocol 'random'; choose one of leave-one-out"):
        make_split("random", logs([[1, 2, 3]]))
    assert set(PROTOCOLS) == {"leave-one-out", "global-time", "prequential", "all"}


@settings(max_examples=40, deadline=None)
@given(any_logs(), st.sampled_from(sorted(PROTOCOLS)))
def test_no_target_trains_and_inputs_end_before_targets(histories: Logs, name: str):
    with mock.patch.object(splits, "LONG", 3):
        try:
            split = make_split(name, histories)
        except UsageError:
            return
    starts, ends = histories.offsets[:-1], histories.offsets[1:]
    assert ((starts <= split.train_end) & (split.train_end <= ends)).all()
    trained = np.concatenate(
        [np.arange(s, e) for s, e in zip(starts, split.train_end, strict=True)]
    )
    in_training = set(histories.items[trained].tolist())
    for targets in (split.validation, split.test):
        assert (targets.positions > starts[targets.users]).all()  # the input is never empty
        assert (targets.positions < ends[targets.users]).all()
        assert (targets.positions >= split.train_end[targets.users]).all()
        assert (np.diff(targets.positions) > 0).all()  # in the order of users, then of time
        if name != "leave-one-out":
            seen = [int(item) in in_training for item in histories.items[targets.positions]]
            assert targets.known.tolist() == seen
    assert not np.intersect1d(split.validation.positions, split.test.positions).size
    last_validation = dict(
        zip(split.validation.users.tolist(), split.validation.positions.tolist(), strict=True)
    )
    for user, position in zip(split.test.users, split.test.positions, strict=True):
        assert last_validation.get(int(user), -1) < position
    assert split.notes["test_targets"] == len(split.test)


@settings(max_examples=30, deadline=None)
@given(any_logs())
def test_global_time_never_lets_the_future_in(histories: Logs):
    try:
        split = global_time(histories)
    except UsageError:
        return
    cut = split.notes["validation_cut"]
    for user, end in enumerate(split.train_end):
        start, stop = histories.offsets[user : user + 2]
        assert (histories.times[start:end] < cut).all()
        assert (histories.times[end:stop] >= cut).all()
    for targets, low, high in (
        (split.validation, cut, split.notes["test_cut"]),
        (split.test, split.notes["test_cut"], 10**9),
    ):
        for user, position in zip(targets.users, targets.positions, strict=True):
            times = histories.times[histories.offsets[user] : position + 1]
            assert (times[:-1] <= times[-1]).all()
            assert (times[:-1] < low).all()
            assert low <= times[-1] < high


@settings(max_examples=30, deadline=None)
@given(any_logs(), st.integers(1, 9))
def test_repeats_equal_their_definition_whatever_the_blocks(histories: Logs, block: int):
    positions = np.arange(len(histories.items))[::-1]
    users = np.searchsorted(histories.offsets, positions, side="right") - 1
    wanted = [
        bool(np.isin(histories.items[p], histories.items[histories.offsets[u] : p]))
        for u, p in zip(users, positions, strict=True)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splits, "_BLOCK_EVENTS", block)
        assert repeats(histories, users, positions).tolist() == wanted


def test_training_events_of_items_are_counted_in_blocks(make_histories, ring, monkeypatch):
    histories = make_histories(ring(20, 9, 2, 12, seed=1), n_items=11)
    split = leave_one_out(histories)
    wanted = np.zeros(12, np.int64)
    for begin, end in zip(histories.offsets[:-1], split.train_end, strict=True):
        np.add.at(wanted, histories.items[begin:end], 1)
    monkeypatch.setattr(splits, "_BLOCK_EVENTS", 7)
    assert splits.training_counts(histories, split.train_end).tolist() == wanted.tolist()
