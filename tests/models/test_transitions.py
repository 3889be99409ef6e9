"""Transitions, as a model and as an added score: against the definition, written as a slow loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models.added_scores import skeleton

from longrec.core.errors import UsageError
from longrec.models import build_model
from longrec.models.common import followers as module
from longrec.models.common.added_score import check_added_score
from longrec.models.common.scorer import Scorer
from longrec.models.transitions import Transitions, TransitionsConfig, TransitionsScore

N = 9
ROWS = [[1, 2, 3, 2, 2, 4], [2, 3, 9], [], [5], [5, 3, 2, 9, 9, 1, 2]]

logs = st.lists(st.lists(st.integers(1, N), max_size=12), max_size=6)
configs = st.builds(
    TransitionsConfig, st.integers(1, 6), st.sampled_from([0.6, 0.8, 1.0]), st.floats(0.1, 40)
)


def flat(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    items = torch.tensor([item for row in rows for item in row], dtype=torch.int32)
    return items, torch.tensor([len(row) for row in rows])


def counted(rows: list[list[int]], config: TransitionsConfig) -> Transitions:
    model = build_model("transitions", config, N)
    assert isinstance(model, Transitions)
    model.count(*flat(rows))
    return model


def definition(rows: list[list[int]], config: TransitionsConfig) -> tuple[list, list]:
    """n (N + 1, N + 1), rows by the item before, and p (N + 1,)."""
    n = [[0.0] * (N + 1) for _ in range(N + 1)]
    events = [0] * (N + 1)
    for row in rows:
        for t, item in enumerate(row):
            events[item] += 1
            for k in range(1, config.last + 1):
                if t + k < len(row):
                    n[item][row[t + k]] += round(config.decay ** (k - 1) * 2**20) / 2**20
    return n, [(count + 1) / (sum(events) + N) for count in events]


def log_c(rows: list[list[int]], config: TransitionsConfig, recent: list[int]) -> list[float]:
    """log c(i) of items 1 .. N, for a user's last items, the latest first."""
    n, p = definition(rows, config)
    c = [0.0] * (N + 1)
    for k, last in enumerate(recent[: config.last]):
        for i in range(1, N + 1):
            of_last = (n[last][i] + config.prior * p[i]) / (sum(n[last]) + config.prior)
            c[i] += config.decay**k * of_last
    return [math.log(x) for x in (c if recent else p)[1:]]


@settings(max_examples=40)
@given(rows=logs, config=configs, histories=st.lists(st.lists(st.integers(1, N)), min_size=1))
def test_scores_are_the_definitions_up_to_what_a_users_items_share(rows, config, histories):
    model = counted(rows, config)
    recent = [history[::-1][: config.last] for history in histories]
    h = torch.tensor([row + [0] * (config.last - len(row)) for row in recent])
    scores = model.score(h)[:, 1:]
    assert scores.dtype == torch.float64
    for got, row in zip(scores.numpy(), recent, strict=True):
        wanted = np.array(log_c(rows, config, row))
        np.testing.assert_allclose(got - got[0], wanted - wanted[0], rtol=1e-9, atol=1e-9)


@settings(max_examples=40)
@given(rows=logs, at_once=st.integers(1, 20), config=configs)
def test_however_little_is_sorted_at_once_counts_are_exact(rows, at_once, config):
    whole = counted(rows, config).state_dict()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PAIRS_AT_ONCE", at_once)
        patch.setattr(module, "PARTS", 1000)
        parts = counted(rows, config).state_dict()
    for name, x in whole.items():
        assert torch.equal(x, parts[name]), name
    n, _ = definition(rows, config)
    starts, items, times = (whole[f"counted.{x}"] for x in ("starts", "followers", "times"))
    for item in range(1, N + 1):
        of_item = slice(starts[item], starts[item + 1])
        found = dict(zip(items[of_item].tolist(), times[of_item].tolist(), strict=True))
        assert found == {i: x for i, x in enumerate(n[item]) if x}
        assert list(found) == sorted(found)


@pytest.mark.parametrize("cells", [1, 25, 1 << 22])
@pytest.mark.parametrize("dense", [0, 10**9])
def test_many_users_at_once_are_each_alone_to_the_bit(cells, dense, monkeypatch):
    model = counted(ROWS, TransitionsConfig())
    h = torch.randint(0, N + 1, (30, 5), generator=torch.Generator().manual_seed(0))
    together = model.score(h)
    monkeypatch.setattr("longrec.models.common.base.CELLS", cells)
    monkeypatch.setattr("longrec.models.transitions.DENSE", dense)  # sorted, or in all cells
    assert torch.equal(model.score(h), together)
    for row in range(30):
        assert torch.equal(model.score(h[row : row + 1])[0], together[row])
    assert [len(part) for part in model.rows(h[:0])] == [0, 0, 0]


def test_items_that_followed_alike_tie():
    model = counted([[1, 2, 5], [1, 3, 5], [4, 2, 1], [4, 3, 1]], TransitionsConfig())
    scores = model.score(torch.tensor([[1, 4, 0, 0, 0], [4, 1, 1, 4, 5]]))
    assert torch.equal(scores[:, 2], scores[:, 3])


@pytest.mark.parametrize("name", ["gru4rec", "two-interests"])
def test_as_an_added_score_it_is_weighted(name):
    model, config = skeleton(name, N), TransitionsConfig(last=3)
    of_model = counted(ROWS, config).as_added_score(1.2)
    added = TransitionsScore.of(*flat(ROWS), N, last=3, weight=1.2)
    assert added.config == of_model.config
    check_added_score(added, N)
    recent = torch.tensor([[2, 3, 1], [9, 0, 0]])
    h = torch.randn(2, model.width, dtype=torch.float64)
    with torch.no_grad():
        both = Scorer(model, added).score(h, recent=recent)
        assert torch.equal(Scorer(model, of_model).score(h, recent=recent), both)
        more = (both - model.score(h))[:, 1:].numpy()
    for got, row in zip(more, ([2, 3, 1], [9]), strict=True):
        wanted = 1.2 * np.array(log_c(ROWS, config, row))
        np.testing.assert_allclose(got - got[0], wanted - wanted[0], rtol=1e-6, atol=1e-6)


def test_it_grows_with_the_catalog_and_is_restored_from_tensors():
    added = TransitionsScore.of(*flat(ROWS), N)
    grown = added.with_items(N + 2)
    check_added_score(grown, N + 2)
    wanted = TransitionsScore.of(*flat(ROWS), N + 2)
    recent = torch.tensor([[2, 3, N + 2, N, 0]])
    for got, fresh in zip(grown.rows(recent), wanted.rows(recent), strict=True):
        assert torch.equal(got, fresh)
    assert torch.equal(grown.bias(), wanted.bias())
    again = TransitionsScore(added.config, N)
    again.load_state_dict(added.state_dict())
    recent = torch.tensor([[2, 3, N, 0, 1]])
    assert all(torch.equal(*x) for x in zip(again.rows(recent), added.rows(recent), strict=True))
    before = added.state_dict() | {"times": added.times.float()}  # as they were stored once
    again.load_state_dict(before)
    torch.testing.assert_close(again.rows(recent).value, added.rows(recent).value)


def test_settings_out_of_range_are_refused():
    with pytest.raises(UsageError, match=r"decay is 1.5.*prior is 0"):
        TransitionsScore.of(*flat(ROWS), N, decay=1.5, prior=0)


def test_of_many_followers_the_most_frequent_are_kept():
    whole = counted(ROWS, TransitionsConfig()).counted
    for most in (1, 2, 3):
        cut = counted(ROWS, TransitionsConfig(followers=most)).counted
        assert torch.equal(cut.totals, whole.totals)
        for item in range(1, N + 1):
            last = torch.tensor([item])
            _, items, times = whole.followers_of(last)
            pairs = sorted(zip((-times).tolist(), items.tolist(), strict=True))[:most]
            _, kept, of_kept = cut.followers_of(last)
            assert kept.tolist() == sorted(i for _, i in pairs)
            assert sorted((-of_kept).tolist()) == [x for x, _ in pairs]


def test_followers_that_are_not_kept_are_dropped_as_soon_as_their_item_is_counted(monkeypatch):
    rng = np.random.default_rng(0)
    rows = [(rng.zipf(1.3, 40) % N + 1).tolist() for _ in range(30)]
    whole = counted(rows, TransitionsConfig()).counted
    joined: list[int] = []
    join = module._joined

    def spy(parts, kind):
        joined.append(sum(map(len, parts)))
        return join(parts, kind)

    monkeypatch.setattr(module, "_joined", spy)
    monkeypatch.setattr(module, "PAIRS_AT_ONCE", 1)
    monkeypatch.setattr(module, "PARTS", 100_000)
    few = counted(rows, TransitionsConfig(followers=2)).counted
    assert torch.equal(few.totals, whole.totals)  # what is cut counts among all that followed
    whole.cut(2)
    for name in ("starts", "followers", "times"):
        assert torch.equal(getattr(few, name), getattr(whole, name)), name
    assert joined[-2:] == [2 * N, 2 * N]


def test_a_long_log_is_read_over_as_often_as_a_short_one(monkeypatch):
    monkeypatch.setattr(module, "PAIRS_AT_ONCE", 8)
    count, passes, rng = module._count, [], np.random.default_rng(0)

    def spy(*given):
        passes.append(given)
        return count(*given)

    monkeypatch.setattr(module, "_count", spy)
    for users in (50, 5000):
        items = torch.from_numpy(rng.integers(1, 4001, users * 8).astype(np.int32))
        score = TransitionsScore.of(items, torch.full((users,), 8), 4000)
        assert int(score.starts[-1]) > users
    assert sum(len(given[0]) == 40_000 for given in passes) <= 2 * 5 * module.PARTS
