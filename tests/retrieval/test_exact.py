"""Exact search against sorting everything: plain, by a scan in 8 bits, and by a model's score."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models.small_models import SEQUENCE, N, make, sequences
from retrieval.problems import (
    Given,
    Problem,
    Several,
    answered_alike_in_threads,
    answers,
    by_sorting,
    problems,
)

from longrec.retrieval import exact, top_k
from longrec.retrieval import int8_scan as scan
from longrec.retrieval.exact import ExactIndex
from longrec.retrieval.int8_scan import Scan


@pytest.fixture
def scanning(monkeypatch) -> None:
    """Every catalog is scanned in 8 bits, whatever is faster."""
    monkeypatch.setattr(exact, "LARGE", 0)
    monkeypatch.setattr(exact, "_scan_if_faster", Scan)


@given(problems(), st.sampled_from([1, 70, 1 << 22]))
def test_equals_sorting(problem, at_once):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "AT_ONCE", at_once)
        assert answers(ExactIndex(problem.model), problem) == by_sorting(problem)


@given(problems(), st.sampled_from([1, 3, 8]), st.sampled_from([2, 16]))
def test_a_scan_in_8_bits_equals_sorting(problem, at_once, share):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(top_k, "DIRECT_SHARE", share)
        patch.setattr(exact, "LARGE", 0)
        patch.setattr(exact, "_scan_if_faster", Scan)
        patch.setattr(scan, "AT_ONCE", at_once)
        index = ExactIndex(problem.model)
        assert index._scan is not None
        assert answers(index, problem) == by_sorting(problem)


@given(st.integers(1, 30), st.integers(1, 4), st.integers(0, 99), st.booleans())
def test_a_model_without_vectors_is_asked_for_its_scores(n_items, users, seed, rows):
    random = np.random.default_rng(seed)
    h = torch.from_numpy(random.integers(-2, 3, (users, n_items)).astype(np.float32))
    out = [set(random.integers(0, n_items + 1, 9).tolist()) for _ in range(users if rows else 1)]
    before = h.clone()
    problem = Problem(Given(n_items), h, 7, out)
    assert answers(ExactIndex(problem.model), problem) == by_sorting(problem)
    assert torch.equal(h, before)


@pytest.mark.parametrize("scan", [False, True])
def test_no_users_get_nothing(scan, request):
    if scan:
        request.getfixturevalue("scanning")
    index = ExactIndex(make("elastic", torch.float32))
    assert (index._scan is not None) == scan
    found = index.search(torch.zeros(0, 12), 5, np.zeros((0, 6), np.uint8))
    assert found.items.shape == found.scores.shape == (0, 5)


def test_scores_that_only_float64_tells_apart_keep_their_order():
    h = torch.tensor([[1.0, 1.0 + 1e-12, 1.0]], dtype=torch.float64)
    found = ExactIndex(Given(3)).search(h, 2)
    assert found.items.tolist() == [[2, 1]]
    assert found.scores[0, 0] > found.scores[0, 1]


def test_a_user_whose_scores_are_no_numbers_does_not_disturb_the_others():
    scores = torch.tensor([[torch.nan, 1, 1, 1], [3, 2, 2, 2]])
    assert ExactIndex(Given(4)).search(scores, 2).items[1].tolist() == [1, 2]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("dim", [3, 64, 256])
def test_a_scan_loses_nothing_whatever_the_vectors(scale, dim, scanning):
    # Norms over three magnitudes: the 8 bits of the small ones are nearly all lost.
    random = np.random.default_rng(dim)
    sizes = 10.0 ** random.uniform(-3, 0, (3000, 1)) * scale
    vectors = (random.standard_normal((3000, dim)) * sizes).astype(np.float32)
    h = torch.from_numpy(random.standard_normal((20, dim)).astype(np.float32))
    h[0] = 0
    scores = np.where(np.arange(3000) > 0, h.numpy().astype(np.float64) @ vectors.T, -np.inf)
    out = [set(np.flatnonzero(random.random(3000) < share).tolist()) for share in (0.0, 0.6, 0.99)]
    for excluded in (None, *out):
        problem = Problem(Several(vectors).eval(), h, 10, None if excluded is None else [excluded])
        index = ExactIndex(problem.model)
        wanted = scores.copy()
        wanted[:, sorted(excluded or ())] = -np.inf
        kth = np.sort(wanted, axis=1)[:, -10]
        for row, found in enumerate(answers(index, problem)):
            assert len(found) == 10
            assert not {item for item, _ in found} & (excluded or set())
            # To the rounding of float32: of items that it cannot tell apart either may stand there.
            slack = 1e-5 * np.linalg.norm(h[row]) * np.linalg.norm(vectors, axis=1).max()
            assert all(wanted[row, item] >= kth[row] - slack for item, _ in found)
            np.testing.assert_allclose(
                [score for _, score in found], wanted[row, [item for item, _ in found]], atol=slack
            )


@pytest.mark.parametrize("name", SEQUENCE)
def test_gives_the_scores_of_every_model(name):
    model = make(name, torch.float32)
    items, _ = sequences(4, 20)
    with torch.no_grad():
        h = model.encode(items)[:, -1]
        scores = model.score(h)
    found = ExactIndex(model).search(h, N)
    torch.testing.assert_close(found.scores, scores.gather(1, found.items))
    assert (found.scores[:, 1:] <= found.scores[:, :-1]).all()
    assert [sorted(row) for row in found.items.tolist()] == [list(range(1, N + 1))] * 4


def test_many_threads(scanning):
    random = np.random.default_rng(0)
    model = Several(random.integers(-9, 10, (500, 8))).eval()
    h = torch.from_numpy(random.integers(-9, 10, (8, 8)).astype(np.float32))
    assert answered_alike_in_threads(ExactIndex(model), h, None)


def test_a_scan_scores_few_items_in_full(monkeypatch):
    random = np.random.default_rng(3)
    vectors = random.standard_normal((200_000, 64)).astype(np.float32)
    scored: list[int] = []

    def counted(vectors, items, user, k):
        scored.append(len(items))
        return top_k.score_items(vectors, items, user, k)

    monkeypatch.setattr(scan, "score_items", counted)
    Scan(vectors).search(random.standard_normal((20, 1, 64)).astype(np.float32), 10, None)
    assert np.median(scored) < 3_000
    assert max(scored) < 20_000


def test_no_scan_where_products_of_8_bits_are_cut_off():
    # oneDNN does what it does on older processors where it is told to be content with their
    # instructions. Where that changes nothing, the product must be right.
    code = (
        "import numpy as np, torch\n"
        "from longrec.retrieval.int8_scan import multiplies_exactly\n"
        "for width in (64, 1):\n"
        "    ones = torch.full((1, width), 127, dtype=torch.int8)\n"
        "    right = int(torch._int_mm(ones, ones.t())) == width * 127**2\n"
        "    assert right or not multiplies_exactly(width)\n"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"},
        check=True,
    )
