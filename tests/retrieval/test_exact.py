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
from models.skeletons import TargetAware
from models.small_models import SEQUENCE, N, make, sequences
from retrieval.problems import (
    Given,
    Problem,
    Several,
    Sparse,
    answered_alike_in_threads,
    answers,
    by_sorting,
    packed,
    problems,
)

from longrec.core.errors import UsageError
from longrec.mixers import Context
from longrec.models.common.scorer import Scorer
from longrec.retrieval import exact, top_k
from longrec.retrieval import int8_scan as scan
from longrec.retrieval.exact import ExactIndex
from longrec.retrieval.int8_scan import Scan
from longrec.retrieval.vectors import ItemVectors


@given(problems(), st.sampled_from([1, 70, 1 << 22]))
def test_equals_sorting(problem, at_once):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "AT_ONCE", at_once)
        assert answers(ExactIndex(problem.scorer), problem) == by_sorting(problem)


@given(problems(), st.sampled_from([1, 3, 8]), st.sampled_from([2, 16]), st.booleans())
def test_large_catalogs_in_8_bits_or_in_full_equal_sorting(problem, at_once, share, in_8_bits):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(top_k, "DIRECT_SHARE", share)
        patch.setattr(exact, "LARGE", 0)
        patch.setattr(exact, "AT_ONCE", at_once)
        patch.setattr(scan, "AT_ONCE", at_once)
        index = ExactIndex(problem.scorer, in_8_bits=in_8_bits)
        assert index.in_8_bits == in_8_bits
        assert answers(index, problem) == by_sorting(problem)


@pytest.mark.parametrize("biased", [False, True])
def test_8_bits_or_in_full_one_by_one_or_together_the_same_to_the_bit(monkeypatch, biased):
    monkeypatch.setattr(exact, "LARGE", 20_000)
    random = np.random.default_rng(0)
    vectors = random.standard_normal((20_001, 24)).astype(np.float32)
    bias = -5 * random.exponential(size=20_001) if biased else None
    scorer = Scorer(Several(vectors, bias).eval())
    h = torch.from_numpy(random.standard_normal((12, 48)).astype(np.float32))
    out = packed([set(range(9_000))], 20_000)
    indexes = [ExactIndex(scorer, in_8_bits=eight) for eight in (True, False)]
    for excluded in (None, out):
        wanted = indexes[0].search(h, 10, excluded)
        for index in indexes:
            found = [index.search(one, 10, excluded) for one in (*h.split(1), h[:5])]
            for part in zip(found[:-1], wanted.items, wanted.scores, strict=True):
                assert torch.equal(part[0].items[0], part[1])
                assert torch.equal(part[0].scores[0], part[2])
            assert torch.equal(found[-1].scores, wanted.scores[:5])


@pytest.mark.parametrize("in_8_bits", [False, True])
def test_with_another_added_score_it_is_the_index_of_that_one(in_8_bits):
    random = np.random.default_rng(1)
    model = Several(random.standard_normal((301, 8))).eval()
    one, other = (
        Sparse(random.standard_normal(301), random.integers(0, 2, (301, 301))) for _ in range(2)
    )
    asked = torch.from_numpy(random.standard_normal((5, 16)).astype(np.float32)), 9
    recent = torch.arange(5)[:, None]
    index, wanted = (ExactIndex(Scorer(model, added), in_8_bits) for added in (one, other))
    before = index.search(*asked, recent=recent)
    swapped = index.with_scorer(Scorer(model, other))
    assert swapped.in_8_bits == in_8_bits
    for this, that in ((swapped, wanted.search(*asked, recent=recent)), (index, before)):
        found = this.search(*asked, recent=recent)
        assert torch.equal(found.items, that.items)
        assert torch.equal(found.scores, that.scores)
    assert not torch.equal(found.items, wanted.search(*asked, recent=recent).items)


def test_the_processor_decides_and_no_stopwatch(monkeypatch):
    scorer = Scorer(Several(np.ones((exact.LARGE + 1, 2))).eval())
    small = Scorer(Several(np.ones((exact.LARGE, 2))).eval())
    monkeypatch.setattr("time.perf_counter", None)
    for fast in (True, False):
        monkeypatch.setattr(exact, "pays", lambda width, fast=fast: fast)
        assert ExactIndex(scorer).in_8_bits == fast
        assert not ExactIndex(small).in_8_bits


@given(st.integers(1, 30), st.integers(1, 4), st.integers(0, 99), st.booleans())
def test_a_model_without_vectors_is_asked_for_its_scores(n_items, users, seed, rows):
    random = np.random.default_rng(seed)
    h = torch.from_numpy(random.integers(-2, 3, (users, n_items)).astype(np.float32))
    out = [set(random.integers(0, n_items + 1, 9).tolist()) for _ in range(users if rows else 1)]
    before = h.clone()
    problem = Problem(Given(n_items), h, 7, out)
    if seed % 2:
        table = random.integers(-3, 4, (n_items + 1, n_items + 1))
        table[:, 0] = 0
        recent = torch.from_numpy(random.integers(0, n_items + 1, (users, 1)))
        added = Sparse(random.integers(-3, 4, n_items + 1), table)
        problem = problem._replace(added=added, recent=recent)
    assert answers(ExactIndex(problem.scorer), problem) == by_sorting(problem)
    assert torch.equal(h, before)


@pytest.mark.parametrize("n_items", [41, 1001])
def test_pairs_that_are_scored_together_tie_wherever_they_stand(n_items):
    """Products of a last block that is not full may be summed in another order."""
    torch.manual_seed(0)
    model = TargetAware(TargetAware.config_class(dim=24, layers=1), n_items).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        model.items[n_items - 8 :] = model.items[1:10].flip(0)
        h = torch.randn(7, 24)
        together = model.score(h)
        assert (together[:, 1:10] == together[:, n_items - 8 :].flip(1)).all()
        assert (together == torch.cat([model.score(one) for one in h.split(1)])).all()


@pytest.mark.parametrize("in_8_bits", [False, True])
@pytest.mark.parametrize("added", [None, Sparse(np.zeros(N + 1), np.zeros((N + 1, N + 1)))])
def test_no_users_get_nothing(in_8_bits, added):
    index = ExactIndex(Scorer(make("elastic", torch.float32), added), in_8_bits)
    nobody = torch.zeros(0, 1, dtype=torch.int64)
    found = index.search(torch.zeros(0, 12), 5, np.zeros((0, 6), np.uint8), nobody)
    assert found.items.shape == found.scores.shape == (0, 5)


def test_scores_that_only_float64_tells_apart_keep_their_order():
    h = torch.tensor([[1.0, 1.0 + 1e-12, 1.0]], dtype=torch.float64)
    found = ExactIndex(Scorer(Given(3))).search(h, 2)
    assert found.items.tolist() == [[2, 1]]
    assert found.scores[0, 0] > found.scores[0, 1]


def test_a_user_whose_scores_are_no_numbers_does_not_disturb_the_others():
    scores = torch.tensor([[torch.nan, 1, 1, 1], [3, 2, 2, 2]])
    assert ExactIndex(Scorer(Given(4))).search(scores, 2).items[1].tolist() == [1, 2]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("dim", [3, 64, 256])
@pytest.mark.parametrize("bias", [0.0, 30.0])
def test_a_scan_loses_nothing_whatever_the_vectors(scale, dim, bias):
    # Norms over three magnitudes: the 8 bits of the small ones are nearly all lost.
    random = np.random.default_rng(dim)
    sizes = 10.0 ** random.uniform(-3, 0, (3000, 1)) * scale
    vectors = (random.standard_normal((3000, dim)) * sizes).astype(np.float32)
    h = torch.from_numpy(random.standard_normal((20, dim)).astype(np.float32))
    h[0] = 0
    biases = (bias * scale * random.standard_normal(3000)).astype(np.float32) if bias else None
    scores = h.numpy().astype(np.float64) @ vectors.T + (0 if biases is None else biases)
    scores[:, 0] = -np.inf
    out = [set(np.flatnonzero(random.random(3000) < share).tolist()) for share in (0.0, 0.6, 0.99)]
    for excluded in (None, *out):
        model = Several(vectors, biases).eval()
        problem = Problem(model, h, 10, None if excluded is None else [excluded])
        index = ExactIndex(problem.scorer, in_8_bits=True)
        wanted = scores.copy()
        wanted[:, sorted(excluded or ())] = -np.inf
        kth = np.sort(wanted, axis=1)[:, -10]
        for row, found in enumerate(answers(index, problem)):
            assert len(found) == 10
            assert not {item for item, _ in found} & (excluded or set())
            # To the rounding of float32: of items that it cannot tell apart either may stand there.
            slack = 1e-5 * np.linalg.norm(h[row]) * np.linalg.norm(vectors, axis=1).max()
            slack += 1e-5 * (0 if biases is None else np.abs(biases).max())
            assert all(wanted[row, item] >= kth[row] - slack for item, _ in found)
            np.testing.assert_allclose(
                [score for _, score in found], wanted[row, [item for item, _ in found]], atol=slack
            )


@pytest.mark.parametrize("name", SEQUENCE)
def test_gives_the_scores_of_every_model(name):
    model = make(name, torch.float32)
    items, times = sequences(4, 20)
    with torch.no_grad():
        h = model.encode(items, Context(times=times))[:, -1]
        scores = model.score(h)
    found = ExactIndex(Scorer(model)).search(h, N)
    torch.testing.assert_close(found.scores, scores.gather(1, found.items))
    assert (found.scores[:, 1:] <= found.scores[:, :-1]).all()
    assert [sorted(row) for row in found.items.tolist()] == [list(range(1, N + 1))] * 4


def test_many_threads():
    random = np.random.default_rng(0)
    model = Several(random.integers(-9, 10, (500, 8))).eval()
    h = torch.from_numpy(random.integers(-9, 10, (8, 8)).astype(np.float32))
    assert answered_alike_in_threads(ExactIndex(Scorer(model), in_8_bits=True), h, None)


@pytest.mark.parametrize("biased", [False, True])
def test_a_scan_scores_few_items_in_full(monkeypatch, biased):
    random = np.random.default_rng(3)
    vectors = random.standard_normal((200_000, 64 + biased)).astype(np.float32)
    users = random.standard_normal((20, 1, 64 + biased)).astype(np.float32)
    if biased:  # as large as that of an added popularity
        vectors[:, -1], users[:, :, -1] = np.log(random.pareto(1, 200_000) + 1e-3) - 10, 1
    scored: list[int] = []

    def counted(vectors, items, user, k):
        scored.append(len(items))
        return top_k.score_items(vectors, items, user, k)

    monkeypatch.setattr(scan, "score_items", counted)
    whole = torch.from_numpy(vectors)
    apart = ItemVectors(whole[:, :-1], whole[:, -1]) if biased else ItemVectors(whole)
    Scan(apart).search(users, 10, None)
    assert np.median(scored) < 3_000
    assert max(scored) < 20_000


@pytest.mark.slow
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


def test_a_type_that_arrays_cannot_have_is_told():
    with pytest.raises(UsageError, match=r"are in torch.bfloat16, .*model\.float\(\)"):
        ItemVectors(torch.zeros(3, 2, dtype=torch.bfloat16))
