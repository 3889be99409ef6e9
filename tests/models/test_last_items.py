"""Models that sum up what a user's last items say: against their definitions, by dense matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longrec.core.errors import UsageError
from longrec.models import MODELS, build_model
from longrec.models.common import baskets as baskets_module
from longrec.models.common.scorer import Scorer
from longrec.retrieval import exact

N = 9
ROWS = [[1, 2, 3, 2, 2, 4], [2, 3, 9], [], [5], [5, 3, 2, 9, 9, 1, 2], [1, 4, 2]]
BOTH = ["item-knn", "ease"]

logs = st.lists(st.lists(st.integers(1, N), max_size=12), max_size=6)


def counted(name: str, rows: list[list[int]], **set_to):
    model = build_model(name, MODELS[name].config_class(**set_to), N)
    items = torch.tensor([item for row in rows for item in row], dtype=torch.int32)
    model.count(items, torch.tensor([len(row) for row in rows], dtype=torch.int64))
    return model


def matrix(rows: list[list[int]]) -> np.ndarray:
    """X (users, N + 1), 1 where a user has an item."""
    x = np.zeros((len(rows), N + 1))
    for user, row in enumerate(rows):
        x[user, row] = 1
    return x


def weights_of_knn(rows: list[list[int]], neighbours: int, shrinkage: float) -> np.ndarray:
    x = matrix(rows)
    common = x.T @ x
    number = common.diagonal()
    w = np.zeros_like(common)
    for a in range(1, N + 1):
        near = {
            i: common[a, i] / (np.sqrt(number[a] * number[i]) + shrinkage)
            for i in range(1, N + 1)
            if i != a and common[a, i]
        }
        for i in sorted(near, key=lambda i: (-near[i], i))[:neighbours]:
            w[a, i] = near[i]
    return w


def weights_of_ease(rows: list[list[int]], l2: float) -> np.ndarray:
    x = matrix(rows)
    p = np.linalg.inv(x.T @ x + l2 * np.eye(N + 1))
    w = -p / p.diagonal()
    np.fill_diagonal(w, 0)
    return w


def said(w: np.ndarray, history: list[int], last: int, decay: float) -> np.ndarray:
    total = np.zeros(N + 1)
    for k, item in enumerate(history[::-1][:last]):
        if item not in history[::-1][:k]:  # each counts where it stands latest
            total += decay**k * w[item]
    return total


def check(model, w: np.ndarray, histories: list[list[int]], last: int, decay: float) -> None:
    h = torch.tensor([(history[::-1] + [0] * last)[:last] for history in histories])
    for got, history in zip(model.score(h).numpy(), histories, strict=True):
        wanted = said(w, history, last, decay)
        spoken = wanted != 0
        spoken[0] = False
        np.testing.assert_allclose(got[spoken], wanted[spoken], rtol=1e-5, atol=1e-7)
        silent = ~spoken
        assert (got[1:][silent[1:]] < 1e-7).all()


@settings(max_examples=30, deadline=None)
@given(
    rows=logs,
    histories=st.lists(st.lists(st.integers(1, N)), min_size=1),
    neighbours=st.integers(1, 10),
    shrinkage=st.sampled_from([0.0, 2.5]),
    at_once=st.integers(1, 40),
    decay=st.sampled_from([0.5, 1.0]),
)
def test_item_knn_is_its_definition(rows, histories, neighbours, shrinkage, at_once, decay):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baskets_module, "PAIRS_AT_ONCE", at_once)
        model = counted(
            *("item-knn", rows),
            **{"last": 4, "neighbours": neighbours, "shrinkage": shrinkage, "decay": decay},
        )
    assert int((model.starts[1:] - model.starts[:-1]).max()) <= neighbours
    check(model, weights_of_knn(rows, neighbours, shrinkage), histories, 4, decay)


@settings(max_examples=30, deadline=None)
@given(
    rows=logs,
    histories=st.lists(st.lists(st.integers(1, N)), min_size=1),
    l2=st.sampled_from([0.5, 20.0]),
    decay=st.sampled_from([0.5, 1.0]),
)
def test_ease_is_its_definition(rows, histories, l2, decay):
    model = counted("ease", rows, last=3, l2=l2, decay=decay)
    check(model, weights_of_ease(rows, l2), histories, 3, decay)


@pytest.mark.parametrize("name", BOTH)
def test_an_item_that_occurs_again_counts_once(name):
    model = counted(name, ROWS, last=4, decay=0.5)
    once, again, earlier = model.score(
        torch.tensor([[2, 3, 0, 0], [2, 3, 2, 3], [3, 2, 0, 0]])
    ).unbind()
    assert torch.equal(again, once)
    assert not torch.equal(earlier, once)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("cells", [1, 25])
def test_many_users_at_once_are_each_alone_to_the_bit(name, cells, monkeypatch):
    monkeypatch.setattr("longrec.models.common.base.CELLS", cells)
    monkeypatch.setattr(exact, "AT_ONCE", cells)
    model = counted(name, ROWS, last=5)
    h = torch.randint(0, N + 1, (12, 5), generator=torch.Generator().manual_seed(0))
    together = model.score(h)
    index = exact.ExactIndex(Scorer(model))
    barred = np.zeros((12, 2), np.uint8)
    barred[:, 0] = 1 << (np.arange(12) % 8)
    found = index.search(h, 3, barred)
    for row in range(12):
        assert torch.equal(model.score(h[row : row + 1])[0], together[row])
        alone = index.search(h[row : row + 1], 3, barred[row : row + 1])
        assert torch.equal(alone.items[0], found.items[row])
        assert row % 8 not in found.items[row]
    assert [len(part) for part in model.rows(h[:0])] == [0, 0, 0]


@pytest.mark.parametrize("name", BOTH)
def test_items_of_which_nothing_is_said_stand_behind_by_popularity(name):
    rows = [[1, 2], [3, 4], [4], [5], [5], [5]]
    scores = counted(name, rows, last=2).score(torch.tensor([[1, 0], [0, 0]]))
    assert scores[0].argsort(descending=True, stable=True).tolist() == [
        2,
        5,
        4,
        1,
        3,
        6,
        7,
        8,
        9,
        0,
    ]
    assert scores[1].argsort(descending=True, stable=True).tolist() == [
        5,
        4,
        1,
        2,
        3,
        6,
        7,
        8,
        9,
        0,
    ]
    assert torch.equal(scores[:, 1:].float().double(), scores[:, 1:])  # shown as they are ranked


def test_ease_refuses_more_items_than_memory_holds_before_it_takes_any(monkeypatch):
    monkeypatch.setattr("longrec.models.ease.available_memory", lambda: 3 * 2**30)
    model = build_model("ease", MODELS["ease"].config_class(), 200_000)
    none = torch.zeros(0, dtype=torch.int64)
    wanted = "ease inverts a matrix of all pairs of 200,000 items, .* GiB, and 3.0 GiB are free"
    with pytest.raises(UsageError, match=f"{wanted}.*train item-knn.*--k-core"):
        model.count(none, none)


def test_recent_popularity_halves_by_age():
    model = build_model("recent-popularity", MODELS["recent-popularity"].config_class(2.0), 4)
    items, lengths, day = torch.tensor([1, 2, 2, 3]), torch.tensor([2, 2]), 86_400
    model.count(items, lengths, torch.tensor([6, 2, 0, 4]) * day - 77)
    assert model.bias().tolist() == [0, 1, 0.25 + 0.125, 0.5, 0]
    model.count(items, lengths, torch.tensor([1, 0, 0, 40 * day]))
    wanted = 2.0 ** (-(40 * day - 1) / day / 2)
    assert float(model.bias()[1]) / wanted == pytest.approx(1, rel=1e-12)
    with pytest.raises(UsageError, match="counts events by their age, and this log has no times"):
        model.count(items, lengths)
