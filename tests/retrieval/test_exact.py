"""Exact top-k against sorting everything."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from longrec.models import Model
from longrec.retrieval import exact
from longrec.retrieval.exact import top_k


class Given(Model):
    """A model whose h are the scores of items 1..n themselves."""

    def __init__(self, n_items: int) -> None:
        super().__init__()
        self.n_items = n_items

    def score(self, h: Tensor) -> Tensor:
        return torch.cat([torch.full((len(h), 1), -torch.inf, dtype=h.dtype), h], dim=1)


def pairs(excluded: list[list[int]]) -> tuple[Tensor, Tensor]:
    rows = [row for row, items in enumerate(excluded) for _ in items]
    items = [item for items in excluded for item in items]
    return torch.tensor(rows, dtype=torch.int64), torch.tensor(items, dtype=torch.int64)


def by_sorting(scores: np.ndarray, excluded: list[list[int]], k: int) -> list[list[int]]:
    """The same by Python's stable sort, row by row."""
    best = []
    for row, seen in zip(scores, excluded, strict=True):
        allowed = [item for item in range(1, len(row) + 1) if item not in seen]
        best.append(sorted(allowed, key=lambda item: -row[item - 1])[:k])
    return best


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, list[list[int]], int]:
    users, items = draw(st.integers(0, 5)), draw(st.integers(1, 12))
    # Few distinct scores, so that most problems have ties, at the k-th place, too.
    scores = draw(
        st.lists(
            st.lists(st.integers(-2, 2), min_size=items, max_size=items),
            min_size=users,
            max_size=users,
        )
    )
    seen = [draw(st.lists(st.integers(1, items), max_size=2 * items)) for _ in range(users)]
    return np.array(scores, dtype=np.float32).reshape(users, items), seen, draw(st.integers(1, 15))


@given(problems(), st.sampled_from([1, 7, 1 << 22]))
def test_equals_sorting_with_ties_in_item_order(problem, at_once):
    scores, excluded, k = problem
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "SCORES_AT_ONCE", at_once)
        found = top_k(Given(scores.shape[1]), torch.from_numpy(scores), k, *pairs(excluded))
    assert found.items.shape == found.scores.shape == (len(scores), min(k, scores.shape[1]))
    for row, wanted in enumerate(by_sorting(scores, excluded, k)):
        real = found.items[row] > 0
        assert found.items[row][real].tolist() == wanted
        assert found.scores[row][real].tolist() == [scores[row, i - 1] for i in wanted]
        assert (found.scores[row][~real] == -torch.inf).all()
        assert not (real[1:] & ~real[:-1]).any(), "what ran out stands last"


def test_many_ties_give_the_same_items_for_every_k_and_block(monkeypatch):
    scores = torch.randint(0, 3, (40, 500), generator=torch.Generator().manual_seed(0)).float()
    none = pairs([[]] * 40)
    whole = top_k(Given(500), scores, 500, *none).items
    assert torch.equal(top_k(Given(500), scores, 10, *none).items, whole[:, :10])
    monkeypatch.setattr(exact, "SCORES_AT_ONCE", 1)
    assert torch.equal(top_k(Given(500), scores, 33, *none).items, whole[:, :33])


def test_all_but_one_item_excluded():
    found = top_k(Given(4), torch.tensor([[9.0, 8, 7, 6]]), 3, *pairs([[1, 2, 4, 1]]))
    assert found.items.tolist() == [[3, 0, 0]]
    assert found.scores[0, 0] == 7


def test_everything_excluded_gives_nothing():
    found = top_k(Given(2), torch.tensor([[1.0, 2], [1, 2]]), 2, *pairs([[1, 2], []]))
    assert found.items.tolist() == [[0, 0], [2, 1]]


def test_scores_that_only_float64_tells_apart_keep_their_order():
    scores = torch.tensor([[1.0, 1.0 + 1e-12, 1.0]], dtype=torch.float64)
    assert top_k(Given(3), scores, 2, *pairs([[]])).items.tolist() == [[2, 1]]


def test_does_not_change_what_it_was_given():
    scores = torch.rand(3, 5)
    before = scores.clone()
    top_k(Given(5), scores, 2, *pairs([[1], [2], []]))
    assert torch.equal(scores, before)


def test_a_score_that_is_no_number_does_not_break_the_rest():
    scores = torch.tensor([[torch.nan, 1, 1, 1], [3, 2, 2, 2]])
    assert top_k(Given(4), scores, 2, *pairs([[], []])).items[1].tolist() == [1, 2]
