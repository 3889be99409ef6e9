"""Recency and positions counted from the row's end."""

from __future__ import annotations

import math

import pytest
import torch

from longrec.mixers import Context
from longrec.models.common.positions import FARTHEST, Recency
from longrec.models.common.windowed import positions_from_end


def test_recency_is_exact_below_16_and_by_eighths_of_a_doubling_above():
    recency = Recency(4)
    distance = torch.arange(3000)
    buckets = recency.buckets(distance)
    assert torch.equal(buckets[:16], distance[:16])
    assert ((buckets.diff() == 0) | (buckets.diff() == 1)).all(), "monotone, none left out"
    for d in range(16, 3000):
        assert buckets[d] == 16 + math.floor(8 * math.log2(d / 16) + 1e-9), d
    far = recency.buckets(torch.tensor([FARTHEST - 1, FARTHEST, FARTHEST + 1, 1 << 40]))
    assert far.tolist() == [143, 144, 144, 144]
    assert len(recency.weight) == 145, "every vector can be reached"
    assert set(recency.state_dict()) == {"weight"}


def test_recency_counts_from_each_rows_end():
    recency = Recency(4)
    whole = recency(40, None, torch.device("cpu"))
    assert whole.shape == (1, 40, 4)
    rows = recency(40, torch.tensor([40, 3, 0]), torch.device("cpu"))
    assert torch.equal(rows[0], whole[0])
    assert torch.equal(rows[1, :3], whole[0, -3:])
    assert torch.equal(whole[0, -1], recency.weight[0])
    assert torch.equal(whole[0, 0], recency.weight[16 + math.floor(8 * math.log2(39 / 16))])


def test_the_last_place_has_the_last_position_however_rows_come():
    items = torch.ones(2, 5, dtype=torch.int64)
    assert positions_from_end(items, Context(), 8, 8).tolist() == [[3, 4, 5, 6, 7]]
    padded = positions_from_end(items, Context(lengths=torch.tensor([5, 2])), 8, 8)
    assert padded.tolist() == [[3, 4, 5, 6, 7], [6, 7, 7, 7, 7]]


def test_rows_longer_than_the_table_are_refused():
    items = torch.ones(1, 9, dtype=torch.int64)
    assert positions_from_end(items, Context(lengths=torch.tensor([8])), 8, 8).max() == 7
    with pytest.raises(ValueError, match=r"a row has 9 events; max_length is 8$"):
        positions_from_end(items, Context(), 8, 8)
    with pytest.raises(ValueError, match="9 events with its mask; max_length is 7 and a mask"):
        positions_from_end(items, Context(), 8, 7)
