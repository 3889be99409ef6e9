"""What the tests of indexes share: catalogs, users, excluded items, and the plain definition.

Vectors are of whole numbers, so that products are the same to the bit in every order of summing,
and few of them, so that most problems have ties.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from longrec.models import Model, SequenceModel
from longrec.models.common.added_score import AddedRows, AddedScore
from longrec.models.common.scorer import Scorer
from longrec.models.hydrarec import HydraRecConfig
from longrec.retrieval.index import Index, as_bits


class Several(SequenceModel):
    """Items of given vectors (n_items + 1, D); h of a user are its R vectors, one after another.

    With `bias` (n_items + 1,) each item has one.
    """

    name = "several"

    def __init__(self, vectors: np.ndarray, bias: np.ndarray | None = None) -> None:
        config = HydraRecConfig(dim=vectors.shape[1])
        super().__init__(config, len(vectors) - 1, [], bias=bias is not None)
        self.items.data = torch.from_numpy(vectors.astype(np.float32))
        if bias is not None:
            self.output_bias.data = torch.from_numpy(bias.astype(np.float32))[:, None]

    def user_vectors(self, h: Tensor) -> Tensor:
        return h.reshape(len(h), -1, self.items.shape[1])


class Given(Model):
    """A model without vectors: h are the scores of the items 1..n themselves."""

    name = "given"

    def __init__(self, n_items: int) -> None:
        super().__init__()
        self.n_items = n_items
        self.register_buffer("nothing", torch.zeros(1))

    def score(self, h: Tensor, items: Tensor | None = None) -> Tensor:
        scores = torch.cat([torch.full((len(h), 1), -torch.inf, dtype=h.dtype), h], dim=1)
        return scores if items is None else scores[:, items]


class Sparse(AddedScore):
    """Adds whole numbers: a bias, and for a user whose last item is i the i-th row of a table."""

    name = "sparse"
    reach = 1

    def __init__(self, bias: np.ndarray, table: np.ndarray) -> None:
        super().__init__(None, len(bias) - 1)
        self.table, self.biases = torch.from_numpy(table), torch.from_numpy(bias).float()

    def bias(self) -> Tensor:
        return self.biases

    def rows(self, recent: Tensor) -> AddedRows:
        added = self.table[recent[:, 0]]
        row, item = added.nonzero().t().flip(1)  # in no order that anybody may rely on
        return AddedRows(row, item, added[row, item].float())


class Problem(NamedTuple):
    """A model, users h (n, ...), how many items are wanted; those excluded, by user or for all.

    added, recent : a score that is added, and the users' last items, if there is one.
    """

    model: Model
    h: Tensor
    k: int
    out: list[set[int]] | None
    added: AddedScore | None = None
    recent: Tensor | None = None

    @property
    def scorer(self) -> Scorer:
        return Scorer(self.model, self.added)

    @property
    def excluded(self) -> np.ndarray | None:
        """As an index takes it."""
        return None if self.out is None else packed(self.out, self.model.n_items)


def packed(out: list[set[int]], n_items: int) -> np.ndarray:
    return np.stack([as_bits(sorted(row), n_items) for row in out])


def sets_of_items(n_items: int) -> st.SearchStrategy[set[int]]:
    """Items, from none to all but one and all; the padding is sometimes among them."""
    some = st.sets(st.integers(0, n_items))
    return some | some.map(lambda items: set(range(n_items + 1)) - items) | st.just(set())


@st.composite
def problems(draw: st.DrawFn, most: int = 40) -> Problem:
    """Models with vectors, one user vector or three, with a bias or none, and an added score."""
    n_items, users = draw(st.integers(1, most)), draw(st.integers(1, 4))
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    width, each = draw(st.sampled_from([2, 4, 8])), draw(st.sampled_from([1, 3]))
    vectors = random.integers(-3, 4, (n_items + 1, width))
    h = random.integers(-3, 4, (users, each * width)).astype(np.float32)
    rows = draw(st.sampled_from([None, 1, users]))
    out = None if rows is None else [draw(sets_of_items(n_items)) for _ in range(rows)]
    bias = random.integers(-9, 10, n_items + 1) if draw(st.booleans()) else None
    model, wanted = Several(vectors, bias).eval(), draw(st.integers(1, 15))
    if draw(st.booleans()):
        return Problem(model, torch.from_numpy(h), wanted, out)
    share = draw(st.sampled_from([0.0, 0.2, 1.0]))
    table = random.integers(-9, 10, (n_items + 1, n_items + 1))
    table[:, 0] = table[random.random(table.shape) >= share] = 0
    added = Sparse(random.integers(-3, 4, n_items + 1), table)
    recent = torch.from_numpy(random.integers(0, n_items + 1, (users, 1)))
    return Problem(model, torch.from_numpy(h), wanted, out, added, recent)


def by_sorting(problem: Problem) -> list[list[tuple[int, float]]]:
    """(item, score) by user: all allowed items sorted by score, ties by item, the first k."""
    scores = problem.model.score(problem.h)
    if isinstance(problem.added, Sparse):
        scores += problem.added.biases + problem.added.table[problem.recent[:, 0]]
    rows = scores.tolist()
    out = problem.out or [set()]
    found = []
    for number, scores in enumerate(rows):
        excluded = out[0 if len(out) == 1 else number]
        allowed = [(item, scores[item]) for item in range(1, len(scores)) if item not in excluded]
        found.append(sorted(allowed, key=lambda pair: (-pair[1], pair[0]))[: problem.k])
    return found


def answers(index: Index, problem: Problem) -> list[list[tuple[int, float]]]:
    """What an index gives, in the same form, its shape looked at."""
    found = index.search(problem.h, problem.k, problem.excluded, problem.recent)
    width = min(problem.k, problem.model.n_items)
    assert found.items.shape == found.scores.shape == (len(problem.h), width)
    assert found.items.dtype == torch.int64
    rows = []
    for items, scores in zip(found.items.tolist(), found.scores.tolist(), strict=True):
        real = [pair for pair in zip(items, scores, strict=True) if pair[0] > 0]
        ran_out = list(zip(items, scores, strict=True))[len(real) :]
        assert all(pair == (0, -np.inf) for pair in ran_out), "what ran out stands last"
        rows.append(real)
    return rows


def answered_alike_in_threads(index: Index, h: Tensor, excluded: np.ndarray | None) -> bool:
    """Whether eight threads at once, each asking for one user over and over, get what one gets."""
    wanted = [index.search(h[row : row + 1], 10, excluded).items for row in range(8)]
    alike: list[bool] = []

    def ask(row: int) -> None:
        found = (index.search(h[row : row + 1], 10, excluded).items for _ in range(20))
        alike.append(all(torch.equal(items, wanted[row]) for items in found))

    threads = [threading.Thread(target=ask, args=(row,)) for row in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return alike == [True] * 8
