"""Windows with their events at the end, and filters that leave everything as it is."""

from __future__ import annotations

import pytest
import torch

from longrec.checks.cost import Counter
from longrec.ops.filters import filter_window, haar_window
from longrec.ops.windows import at_end, from_end

X = torch.arange(1.0, 13).view(2, 3, 2)


def test_events_move_to_the_end_of_a_window_and_back():
    lengths = torch.tensor([3, 1])
    moved = at_end(X, lengths, 4)
    assert moved[..., 0].tolist() == [[0, 1, 3, 5], [0, 0, 0, 7]]
    back = from_end(moved, lengths, 3)
    assert torch.equal(back[0], X[0])
    assert torch.equal(back[1, 0], X[1, 0])
    assert torch.equal(from_end(at_end(X, None, 5), None, 3), X)
    # Padding may be wider than the window, events may not.
    assert at_end(X, torch.tensor([2, 0]), 2)[..., 0].tolist() == [[1, 3], [0, 0]]
    for lengths, most in ((None, 3), (torch.tensor([1, 3]), 3)):
        with pytest.raises(ValueError, match=f"a row has {most} events, and the window has 2"):
            at_end(X, lengths, 2)


@pytest.mark.parametrize("lengths", [None, torch.tensor([3, 1])])
def test_what_stands_in_front_is_as_given(lengths):
    before = torch.full((5, 2), -1.0)
    moved = at_end(X, lengths, 5, before)
    assert (moved[0, :2] == -1).all()
    assert torch.equal(moved[0, 2:], X[0])
    assert (moved[1, : 2 if lengths is None else 4] == -1).all()
    # Each row its own, each place its own.
    before = torch.arange(20.0).view(2, 5, 2) + 100
    assert torch.equal(at_end(X, lengths, 5, before)[:, :2], before[:, :2])


@pytest.mark.parametrize("places", [1, 2, 7, 8])
def test_filters_that_change_nothing(places):
    x = torch.randn(2, places, 3, dtype=torch.float64)
    torch.testing.assert_close(filter_window(x, lambda spectrum: spectrum), x)
    if places % 2 == 0:
        torch.testing.assert_close(haar_window(x, torch.ones(places // 2, 3).double()), x)
        means = haar_window(x, torch.zeros(places // 2, 3).double())
        torch.testing.assert_close(means[:, 0], (x[:, 0] + x[:, 1]) / 2)
        assert torch.equal(means[:, 0], means[:, 1])


def test_a_circular_filter_by_hand():
    # A product with exp(-2 pi i f / N) is a turn by one place: the last event comes first.
    x = torch.arange(1.0, 6, dtype=torch.float64)[None, :, None]
    turn = torch.polar(torch.ones(3).double(), -2 * torch.pi / 5 * torch.arange(3).double())
    turned = filter_window(x, lambda spectrum: spectrum * turn[:, None])
    torch.testing.assert_close(turned[0, :, 0], torch.tensor([5.0, 1, 2, 3, 4]).double())


def test_transforms_count_their_logarithm():
    def operations(places: int) -> float:
        x, counter = torch.ones(1, places, 1), Counter()
        with counter:
            torch.fft.rfft(x, dim=1)
        return counter.cost.operations

    assert operations(1024) / operations(32) > 1.9 * 30  # 513 frequencies to 17, 10 to 5
