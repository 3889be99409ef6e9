"""Batches: every target once per epoch, budgets kept, and nothing depends on workers."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longrec.data.batches import Batch, TrainingData, group_by_length, length_buckets, read_padded
from longrec.data.sampling import Masking, Prefixes


@dataclass
class Logs:
    """The part of ``Histories`` that batches read; item at place p is p + 1, so targets tell
    which event they are."""

    offsets: np.ndarray
    items: np.ndarray
    times: np.ndarray | None
    n_items: int
    path: Path = Path("histories")


def logs(lengths: list[int], timed: bool = True) -> Logs:
    total = sum(lengths)
    offsets = np.cumsum([0, *lengths]).astype(np.int64)
    items = np.arange(1, total + 1, dtype=np.int32)
    return Logs(offsets, items, np.arange(total) * 10 - 50 if timed else None, total)


def data_of(h: Logs, **changes: Any) -> TrainingData:
    options = {"context": None, "window": 32, "batch_tokens": 100, "seed": 0}
    ends = changes.pop("train_end", h.offsets[1:])
    return TrainingData(cast(Any, h), ends, **(options | changes))


def same(a: Batch, b: Batch) -> bool:
    for name in ("items", "targets", "times", "lengths", "continues"):
        one, two = getattr(a, name), getattr(b, name)
        if (one is None) != (two is None) or (one is not None and not torch.equal(one, two)):
            return False
    return a.carries == b.carries


any_data = st.fixed_dictionaries(
    {
        "lengths": st.lists(st.integers(1, 150), min_size=1, max_size=25),
        "cut": st.integers(0, 3),
        "context": st.none() | st.integers(1, 60),
        "window": st.integers(1, 80),
        "batch_tokens": st.integers(1, 400),
        "seed": st.integers(0, 3),
        "timed": st.booleans(),
    }
)


@settings(max_examples=50)
@given(any_data)
def test_every_event_but_the_first_is_a_target_once(drawn):
    lengths, context = drawn["lengths"], drawn["context"]
    h = logs(lengths, drawn["timed"])
    ends = np.maximum(h.offsets[1:] - drawn["cut"], h.offsets[:-1])
    data = data_of(
        h,
        train_end=ends,
        **{k: drawn[k] for k in ("context", "window", "batch_tokens", "seed")},
    )
    plan = data.epoch(1)
    wanted = []
    for begin, end in zip(h.offsets[:-1], ends, strict=True):
        first = begin if context is None else max(begin, end - context - 1)
        wanted.extend(range(first + 1, end))
    found, before, carried = [], None, False
    for step in range(len(plan)):
        batch = plan.batch(step)
        rows, width = batch.items.shape
        real = torch.arange(width) < batch.lengths[:, None]
        assert batch.lengths.min() >= 1
        assert batch.lengths.max() == width  # no column is padding alone
        assert width <= drawn["window"]
        assert rows == 1 or rows * width <= drawn["batch_tokens"]
        # Padding at the end, in inputs and targets alike; the target is the next event.
        assert torch.equal(batch.items > 0, real)
        assert torch.equal(batch.targets > 0, real)
        assert torch.equal(batch.targets[real], batch.items[real] + 1)
        if drawn["timed"]:
            assert torch.equal(batch.times[real], (batch.items[real] - 1) * 10 - 50)
            assert (batch.times.diff(dim=1) >= 0).all()
        else:
            assert batch.times is None
        # Windows come in order, and `continues` names the row of the batch before that goes on.
        assert (batch.continues is not None) == carried
        if batch.continues is not None:
            last = before.items[torch.arange(len(before.items)), before.lengths - 1]
            assert torch.equal(batch.items[:, 0], last[batch.continues] + 1)
            assert (before.lengths[batch.continues] == drawn["window"]).all()
        else:
            starts = batch.items[:, 0].numpy() - 1
            assert np.isin(starts, data.begin).all()
        before, carried = batch, batch.carries
        found.extend((batch.targets[real] - 1).tolist())
    assert not carried
    assert sorted(found) == wanted
    assert data.targets_per_epoch == len(wanted)
    assert data.dropped == int((data.begin - h.offsets[:-1]).sum())


def rows_of(batch: Batch) -> list[tuple[list[int], list[int], list[int] | None]]:
    """Items, targets and times of each row, without padding, which must be zero at the end."""
    real = torch.arange(batch.items.shape[1]) < batch.lengths[:, None]
    assert torch.equal(batch.items > 0, real)
    assert not (batch.targets > 0)[~real].any()
    assert batch.lengths.max() == batch.items.shape[1]
    rows = []
    for row, length in enumerate(batch.lengths.tolist()):
        times = None if batch.times is None else batch.times[row, :length].tolist()
        rows.append(
            (batch.items[row, :length].tolist(), batch.targets[row, :length].tolist(), times)
        )
    return rows


@settings(max_examples=35)
@given(any_data, st.floats(0.01, 0.99), st.sampled_from([0.0, 0.3, 1.0]))
def test_masked_rows_hold_their_targets(drawn, share, last):
    lengths, context = drawn["lengths"], drawn["context"]
    h = logs(lengths, drawn["timed"])
    options = {k: drawn[k] for k in ("context", "window", "batch_tokens", "seed")}
    ends = np.maximum(h.offsets[1:] - drawn["cut"], h.offsets[:-1])
    data = data_of(h, train_end=ends, sampling=Masking(share, last), **options)
    wanted = {}
    for begin, end in zip(h.offsets[:-1].tolist(), ends.tolist(), strict=True):
        first = begin if context is None else max(begin, end - context - 1)
        if end - first >= 2:  # one event alone would be predicted from nothing
            wanted[first + 1] = list(range(first + 1, end + 1))
    found = {}
    for batch in data.epoch(2).batches():
        rows, width = batch.items.shape
        assert rows == 1 or rows * width <= drawn["batch_tokens"]
        assert batch.continues is None
        assert not batch.carries
        for items, targets, times in rows_of(batch):
            found[items[0]] = items
            hidden = [n for n, target in enumerate(targets) if target]
            assert hidden
            assert last < 1 or hidden == [len(items) - 1]
            assert all(targets[n] == items[n] for n in hidden)
            if times is not None:  # the item at place p has the time 10 p - 50
                before = [
                    max([m for m in range(n + 1) if not targets[m]] or [0])
                    for n in range(len(items))
                ]
                assert times == [10 * (items[n] - 1) - 50 for n in before]
    assert found == wanted
    assert data.dropped == int((data.begin - h.offsets[:-1]).sum())
    if last == 1.0:
        assert data.targets_per_epoch == len(wanted)


@settings(max_examples=35)
@given(any_data, st.integers(1, 6))
def test_prefixes_predict_the_event_after_them(drawn, number):
    lengths, context = drawn["lengths"], drawn["context"]
    h = logs(lengths, drawn["timed"])
    options = {k: drawn[k] for k in ("context", "window", "batch_tokens", "seed")}
    ends = np.maximum(h.offsets[1:] - drawn["cut"], h.offsets[:-1])
    data = data_of(h, train_end=ends, sampling=Prefixes(number), **options)
    predicted = []
    for batch in data.epoch(0).batches():
        assert batch.continues is None
        assert not batch.carries
        assert len(batch.items) == 1 or batch.items.numel() <= drawn["batch_tokens"]
        for items, targets, times in rows_of(batch):
            assert targets[:-1] == [0] * (len(items) - 1)
            assert targets[-1] == items[-1] + 1
            assert items == list(range(items[0], items[-1] + 1))
            user = np.searchsorted(h.offsets, items[0] - 1, side="right") - 1
            assert targets[-1] <= ends[user]
            events = items[-1] - h.offsets[user]
            assert len(items) == (events if context is None else min(events, context))
            assert times is None or times == [10 * (item - 1) - 50 for item in items]
            predicted.append(targets[-1])
    assert len(set(predicted)) == len(predicted) == data.targets_per_epoch
    wanted = np.minimum(np.maximum(ends - h.offsets[:-1] - 1, 0), number)
    users = np.searchsorted(h.offsets, np.array(predicted) - 1, side="right") - 1
    assert np.bincount(users.astype(int), minlength=len(wanted)).tolist() == wanted.tolist()
    assert data.dropped == 0


def test_masks_differ_from_step_to_step_and_from_epoch_to_epoch():
    """Rows all alike in shape: only the numbers drawn can tell their masks apart."""
    data = data_of(logs([30] * 12), batch_tokens=60, sampling=Masking(0.3, 0.0))
    masks = [
        tuple((batch.targets > 0).flatten().tolist())
        for epoch in range(3)
        for batch in data.epoch(epoch).batches()
    ]
    assert len(set(masks)) == len(masks) == 36


SAMPLINGS = [None, Masking(0.2, 0.1), Prefixes(3)]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_plan_depends_on_seed_and_epoch_alone(sampling):
    h = logs([40, 3, 90, 17, 66, 2, 5, 30] * 5)
    plans = {
        (seed, epoch): list(data_of(h, seed=seed, sampling=sampling).epoch(epoch).batches())
        for seed in (0, 1)
        for epoch in (0, 1)
    }

    def equal(a, b):
        return len(a) == len(b) and all(map(same, a, b))

    again = data_of(h, seed=1, sampling=sampling).epoch(1)
    assert equal([again.batch(step) for step in reversed(range(len(again)))][::-1], plans[1, 1])
    for key, plan in plans.items():
        for other, batches in plans.items():
            assert equal(plan, batches) == (key == other)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("first", [0, 7])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_workers_change_nothing(workers, first, sampling):
    plan = data_of(logs([40, 3, 90, 17, 66, 2, 5, 30] * 5), sampling=sampling).epoch(2)
    alone = list(plan.batches(first))
    assert len(alone) == len(plan) - first
    threaded = list(plan.batches(first, workers))
    assert len(threaded) == len(alone)
    assert all(map(same, alone, threaded))


def test_workers_stop_when_the_reader_does():
    plan = data_of(logs([40] * 50)).epoch(0)
    batches = plan.batches(0, 2)
    next(batches)
    batches.close()


def test_buckets_waste_little():
    bounds = length_buckets(5000)
    assert (bounds % 2 == 0).all()
    assert bounds[-1] >= 5000
    assert (np.diff(bounds) <= np.maximum(16, bounds[:-1] / 8)).all()
    random = np.random.default_rng(0)
    for middle in (1.8, 4.5):  # half of the histories have 6 events at most, or 90
        lengths = np.minimum(random.lognormal(middle, 1.2, 3000).astype(int) + 1, 4000)
        groups = group_by_length(lengths, random.permutation(3000), 6000, 4096)
        padded = sum(
            lengths[groups.order[a:b]].max() * (b - a)
            for a, b in zip(groups.starts[:-1], groups.starts[1:], strict=True)
        )
        assert padded < 1.2 * lengths.sum()
        assert sorted(groups.order) == list(range(3000))


def test_reading_stretches():
    h = logs([4, 3])
    got = read_padded(cast(Any, h), np.array([1, 4, 6]), np.array([2, 3, 0]))
    assert got.items.tolist() == [[2, 3, 0], [5, 6, 7], [0, 0, 0]]
    assert got.times[:2].tolist() == [[-40, -30, -30], [-10, 0, 10]]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_work_in_python_grows_with_batches_not_with_events(sampling):
    """Lines run by the interpreter for batches: as many for 50 times the events per batch."""

    def lines(length: int) -> tuple[int, int]:
        options = {"window": length, "batch_tokens": 16 * length, "sampling": sampling}
        plan = data_of(logs([length] * 64), **options).epoch(0)
        count = 0

        def trace(frame, event, arg):
            nonlocal count
            if not frame.f_code.co_filename.endswith(("batches.py", "sampling.py")):
                return None
            count += 1
            return trace

        sys.settrace(trace)
        try:
            steps = sum(1 for _ in plan.batches())
        finally:
            sys.settrace(None)
        return count, steps

    (few, some), (many, more) = lines(20), lines(1000)
    assert many / more <= 1.2 * few / some
