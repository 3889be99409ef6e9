"""The approximate index: exact where it probes all and about what is excluded; always full."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models.added_scores import skeleton
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
from longrec.models.common.scorer import Scorer
from longrec.retrieval import cells as making
from longrec.retrieval import top_k
from longrec.retrieval.approximate import CellIndex
from longrec.retrieval.cells import build_cells
from longrec.retrieval.exact import ExactIndex
from longrec.retrieval.vectors import checked_vectors

pytest.importorskip("faiss")


def index_of(scorer: Scorer, per_cell: int = 4, probes: int | None = None) -> CellIndex:
    """Cells of so few items that small catalogs have many; all are looked into by default."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(making, "PER_CELL", per_cell)
        vectors = checked_vectors(scorer)
        cells = build_cells(vectors.part(0, len(vectors)))
    return CellIndex(scorer, cells, probes or cells.nlist)


@given(problems(), st.sampled_from([1, 4, 256]))
def test_looking_into_all_cells_equals_sorting_but_for_ties(problem, share):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(top_k, "DIRECT_SHARE", share)
        found = answers(index_of(problem.scorer), problem)
    scores = problem.scorer.score(problem.h, recent=problem.recent)
    for row, (ours, wanted) in enumerate(zip(found, by_sorting(problem), strict=True)):
        assert [score for _, score in ours] == [score for _, score in wanted]
        assert all(scores[row, item] == score for item, score in ours)
        assert ours == sorted(ours, key=lambda pair: (-pair[1], pair[0])), "ties by item"


@given(problems(), st.sampled_from([1, 4, 256]))
def test_one_cell_gives_as_many_items_as_are_allowed_and_no_other(problem, share):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(top_k, "DIRECT_SHARE", share)
        found = answers(index_of(problem.scorer, probes=1), problem)
    scores = problem.scorer.score(problem.h, recent=problem.recent)
    out = problem.out or [set()]
    for row, (ours, wanted) in enumerate(zip(found, by_sorting(problem), strict=True)):
        items = [item for item, _ in ours]
        assert len(set(items)) == len(items) == len(wanted)
        assert not set(items) & out[0 if len(out) == 1 else row]
        assert all(scores[row, item] == score for item, score in ours)


def test_another_added_score_is_served_by_the_same_cells():
    random = np.random.default_rng(1)
    model = Several(random.integers(-3, 4, (61, 4))).eval()
    one, other = (
        Sparse(random.integers(0, 9, 61), random.integers(0, 2, (61, 61))) for _ in range(2)
    )
    h = torch.from_numpy(random.integers(-3, 4, (5, 8)).astype(np.float32))
    problem = Problem(model, h, 7, None, other, torch.arange(5)[:, None])
    index = index_of(Scorer(model, one))
    swapped = index.with_scorer(problem.scorer)
    assert swapped.cells is index.cells
    wanted = answers(ExactIndex(problem.scorer), problem)
    for ours, best in zip(answers(swapped, problem), wanted, strict=True):
        assert [score for _, score in ours] == [score for _, score in best]


@pytest.fixture(scope="module")
def large() -> tuple[Several, np.ndarray]:
    """5,000 items around 50 directions, and users near some of them."""
    random = np.random.default_rng(0)
    centres = random.standard_normal((50, 16))
    vectors = centres[random.integers(50, size=5001)] + 0.3 * random.standard_normal((5001, 16))
    users = centres[random.integers(50, size=100)] + 0.3 * random.standard_normal((100, 16))
    return Several(vectors).eval(), users.astype(np.float32)


@pytest.mark.parametrize("allowed", [1, 9, 50, 300, 400, 2500, 4999])
def test_recall_stands_whatever_share_is_excluded(large, allowed):
    model, users = large
    random = np.random.default_rng(allowed)
    out = [set(random.permutation(np.arange(1, 5001))[allowed:].tolist()) for _ in users]
    problem = Problem(model, torch.from_numpy(users), 10, out)
    index = index_of(Scorer(model), per_cell=50, probes=4)
    hits = wanted = 0
    for ours, best in zip(answers(index, problem), by_sorting(problem), strict=True):
        assert len(ours) == len(best)
        hits += len({item for item, _ in ours} & {item for item, _ in best})
        wanted += len(best)
    assert hits / wanted > 0.95


def test_among_few_items_is_exact(large):
    model, users = large
    among = set(range(100, 5000, 98))
    out = [set(range(5001)) - among]
    problem = Problem(model, torch.from_numpy(users), 10, out)
    index = index_of(Scorer(model), per_cell=50, probes=1)
    found = [[item for item, _ in row] for row in answers(index, problem)]
    assert found == [[item for item, _ in row] for row in by_sorting(problem)]


def test_many_threads(large):
    model, users = large
    index = index_of(Scorer(model), per_cell=50, probes=4)
    excluded = packed([set(range(0, 5001, 2))], 5000)
    h = torch.from_numpy(users)
    assert answered_alike_in_threads(index, h, excluded)


def test_a_model_without_vectors_is_refused_by_name():
    with pytest.raises(UsageError, match=r"given on cpu has no approximate index.*exact"):
        CellIndex(Scorer(Given(4)), None, 1)
    together = skeleton("target-aware", 4)
    together.name = "together"
    with pytest.raises(UsageError, match="together on cpu has no approximate index"):
        CellIndex(Scorer(together), None, 1)
