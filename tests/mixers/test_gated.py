"""Gated linear mixers: cuts beside the chunks' ends, clocks of today, requests, far positions."""

from __future__ import annotations

import pytest
import torch
from mixers.definitions import examples_of

from longrec.checks.mixers import build, check_splits, events, same
from longrec.mixers import Context
from longrec.mixers.fuxi_linear import FuXiLinearMixer
from longrec.ops.clock import NEVER, clock_at, gaps, last_of
from longrec.ops.fuxi_linear import naive_time, position_rows, sinusoids, time_channel, time_step

GATED = [
    pytest.param(make, id=f"{name}: {case}")
    for name in ("gated-delta", "gated-linear", "fuxi-linear")
    for case, make in examples_of(name).items()
]
NOW = 1_700_000_000


@pytest.mark.parametrize("make", GATED)
@pytest.mark.parametrize("pieces", [[1, 63, 64, 65], [64, 1, 65], [1, 2, 3, 2, 1, 1]])
def test_cuts_beside_the_ends_of_chunks_and_short_windows(make, pieces):
    check_splits(make, [[n, max(n - 2, 0)] for n in pieces], steps=3)


def test_periods_are_seen_at_the_times_of_today():
    """float32 cannot tell seconds of 1.7e9 apart, nor a gap after a very long one."""
    x, _ = events(60)
    times = NOW + torch.arange(60).mul(7).add((torch.arange(60) > 30) * 10**9)[None]
    high = build(FuXiLinearMixer, 16, kind=torch.float32).double()
    low = build(FuXiLinearMixer, 16, kind=torch.float32)
    x = torch.cat([x, x[:, :4]], 1)[None].float()
    wanted = high(x.double(), Context(times=times))
    same("outputs", low(x, Context(times=times)), wanted, 1e-5)
    longest = int(high.periods[-1])
    same("a whole period later", high(x.double(), Context(times=times + longest)), wanted, 1e-12)
    assert (high(x.double(), Context(times=times * 2)) - wanted).abs().max() > 1e-4


def test_a_query_may_have_a_time_of_its_own():
    random = torch.Generator().manual_seed(0)
    values = torch.randn(1, 6, 40, 2, generator=random, dtype=torch.float64)
    times = NOW + torch.randint(0, 500, (1, 40), generator=random).cumsum(1)
    asked = times + torch.randint(0, 5000, (1, 40), generator=random)
    periods, log_gamma = torch.tensor([1, 60, 4096]), torch.tensor([-0.7, -0.1, -0.01]).double()
    wanted = naive_time(values[0].transpose(0, 1), times[0], log_gamma, periods, asked[0])
    clock = clock_at(torch.tensor([NEVER]), times)
    given = (log_gamma, periods)
    y, sums = time_channel(values, times, gaps(clock), *given, asked=asked, chunk=7)
    same("outputs", y[0].transpose(0, 1), wanted, 1e-11)
    _, before = time_channel(values[:, :, :-1], times[:, :-1], gaps(clock)[:, :-1], *given)
    last = (times[:, -1], gaps(clock)[:, -1])
    row, after = time_step(values[:, :, -1], *last, *given, before, asked=asked[:, -1])
    same("the last output", row[0], wanted[-1], 1e-11)
    same("sums", after, sums, 1e-11)


def test_a_late_event_counts_as_if_it_came_with_the_one_before_it():
    clock = clock_at(torch.tensor([NEVER, 50]), torch.tensor([[7, 3, 9], [40, 60, 60]]))
    assert gaps(clock).tolist() == [[0, 0, 2], [0, 10, 0]]
    assert last_of(clock, torch.tensor([2, 0])).tolist() == [7, 50]
    mixer = build(FuXiLinearMixer, 16)
    x = torch.randn(1, 3, 16, dtype=torch.float64)
    late, not_late = torch.tensor([[100, 40, 160]]), torch.tensor([[100, 100, 160]])
    same("outputs", mixer(x, Context(times=late)), mixer(x, Context(times=not_late)), 1e-14)


def test_positions_past_the_table_are_sinusoids():
    table = torch.randn(5, 4, dtype=torch.float64)
    rows = position_rows(table, torch.arange(9))
    assert torch.equal(rows[:5], table)
    same("rows", rows[5:], sinusoids(torch.arange(5, 9), 4), 1e-15)
    far = sinusoids(torch.tensor([10**6, 10**6 + 3, 3, 6]), 32)
    same("products depend on the distance alone", far[0] @ far[1], far[2] @ far[3], 1e-9)
