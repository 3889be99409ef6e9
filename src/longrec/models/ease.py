"""EASE (Steck, arXiv 1905.03375): a linear model of all pairs of items, in closed form.

    G = X^T X                      X (users, items): 1 where a user has an item in training
    P = (G + l2 I)^-1
    w(a -> i) = -P_ai / P_ii       0 for a = i

the weights with which a user's items predict each other best, in squares and with l2 times the sum
of their squares, none predicting itself. The paper scores by all items of a user; here it is the
last ones (models/common/last_items.py), so that a user's record stays small.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any

import torch
from torch import Tensor

from longrec.core.bounds import MOST, Bounds
from longrec.core.errors import UsageError
from longrec.core.memory import available_memory
from longrec.models.common.baskets import Baskets
from longrec.models.common.followers import take_stored_sizes
from longrec.models.common.last_items import LastItemsModel
from longrec.models.common.registry import register_model

BYTES = 20
"""Of a pair of items, while the matrix is inverted: two in float64, and some for the rest."""


@dataclass(frozen=True)
class EASEConfig:
    """Settings of EASE.

    Attributes
    ----------
    last : how many last items are read.
    decay : what each item further back counts, of the one after it.
    l2 : what the squares of the weights cost.
    """

    last: Annotated[int, Bounds(ge=1, le=1000)] = 50
    decay: Annotated[float, Bounds(gt=0, le=1)] = 0.8
    l2: Annotated[float, Bounds(gt=0, le=MOST)] = 500.0


@register_model("ease")
class EASE(LastItemsModel):
    """Items by weights of all pairs of items, by which those of a user predict each other best."""

    paper = "arXiv 1905.03375"
    paper_settings = MappingProxyType({"last": 1000, "decay": 1.0})
    searched = MappingProxyType({"last": "5..500", "decay": "0.5..1", "l2": "50..5000"})
    config_class = EASEConfig
    weights: Tensor

    def __init__(self, config: EASEConfig, n_items: int) -> None:
        super().__init__()
        self.config, self.n_items = config, n_items
        self.reach, self.decay = config.last, config.decay
        self.register_buffer("counts", torch.zeros(n_items + 1, dtype=torch.int64))
        self.register_buffer("weights", torch.zeros(0, n_items + 1))  # until they are counted

    def count(self, items: Tensor, lengths: Tensor, times: Tensor | None = None) -> None:
        self._check_memory()
        self.count_events(items)
        gram = torch.zeros(self.n_items, self.n_items, dtype=torch.float64)
        for one, other, users in Baskets(items, lengths, self.n_items).in_common():
            gram[one - 1, other - 1] = users
        gram.diagonal().add_(self.config.l2)
        inverse = _inverse(gram)
        del gram
        inverse /= -inverse.diagonal().clone()
        inverse.fill_diagonal_(0)
        weights = torch.zeros(self.n_items + 1, self.n_items + 1)
        weights[1:, 1:] = inverse
        self.weights = weights.to(self.counts.device)

    def check_counts(self) -> None:
        super().check_counts()
        wanted = self.n_items + 1
        if tuple(self.weights.shape) not in ((0, wanted), (wanted, wanted)):
            raise ValueError(
                f"weights has shape {tuple(self.weights.shape)}; it must be ({wanted}, {wanted})"
            )

    def add(self, total: Tensor, last: Tensor, weight: Tensor) -> None:
        total += weight[:, None] * self.weights[last].double()

    def _check_memory(self) -> None:
        """Raise UsageError where the matrices would not fit, before anything large is made."""
        needed, there = BYTES * (self.n_items + 1) ** 2, available_memory()
        if needed > there:
            most = int((there / BYTES) ** 0.5)
            raise UsageError(
                f"{self.name} inverts a matrix of all pairs of {self.n_items:,} items, which takes "
                f"{needed / 2**30:,.1f} GiB, and {there / 2**30:,.1f} GiB are free, enough for "
                f"some {most:,} items: train item-knn, which keeps the nearest alone, prepare "
                "the log with fewer items (--k-core), or use a larger machine"
            )

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        take_stored_sizes(self, ("weights",), state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _inverse(matrix: Tensor) -> Tensor:
    """The inverse of a symmetric positive definite matrix, which is overwritten."""
    torch.linalg.cholesky(matrix, out=matrix)
    return torch.cholesky_inverse(matrix)
