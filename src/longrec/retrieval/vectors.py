"""Vectors of all items as they are scored: the model's own, and beside them a bias.

The bias is a coordinate more, that of users being 1. It stands by itself, so that the table of the
model is read where it is: in memory once, and once for all processes of a machine.
"""

from __future__ import annotations

import hashlib
from typing import Self

import numpy as np
import torch
from torch import Tensor

from longrec.core.arrays import Ints
from longrec.core.errors import UsageError
from longrec.core.shared import is_shared, shared
from longrec.models.common.scorer import Scorer
from longrec.models.common.sequence import SequenceModel

ROWS = 65_536
"""Rows of a block."""


class ItemVectors:
    """Vectors (n_items + 1, D'), row 0 being padding; see above.

    Parameters
    ----------
    own : Tensor
        (n_items + 1, D), on any device; not copied.
    bias : Tensor or None
        (n_items + 1,), of the same type and device: then D' is D + 1, else D.

    Attributes
    ----------
    host, host_bias : both as arrays, on the CPU.
    width : D'.
    shared : whether other processes hold the own ones, too.

    Raises
    ------
    UsageError
        When they are of a type that arrays cannot have.
    """

    def __init__(self, own: Tensor, bias: Tensor | None = None) -> None:
        if own.dtype == torch.bfloat16:
            raise UsageError(
                f"the item vectors are in {own.dtype}, which NumPy does not have: turn the model "
                "into another type before items are searched (model.float())"
            )
        self.own, self.bias = own, bias
        self.host: np.ndarray = own.cpu().numpy()
        self.host_bias: np.ndarray | None = None if bias is None else bias.cpu().numpy()
        self.width, self.shared = own.shape[1] + (bias is not None), is_shared(own)

    @classmethod
    def of(cls, scorer: Scorer) -> Self:
        """Those of scores that are products.

        What a model makes of its table, as one does that compares directions, is held once by all
        processes where the table is.
        """
        own, bias = scorer.vectors_and_bias()
        made = cls(own.detach(), None if bias is None else bias.detach())
        model = scorer.model
        if isinstance(model, SequenceModel) and is_shared(model.items) and not made.shared:
            key = f"vectors-{made.digest(with_bias=False)}"
            made = cls(shared(key, lambda: {"own": made.own})["own"], made.bias)
        return made

    def with_bias_of(self, scorer: Scorer) -> Self:
        """The same vectors with the bias that a scorer of the same model has."""
        bias = scorer.vectors_and_bias()[1]
        return type(self)(self.own, None if bias is None else bias.detach())

    def __len__(self) -> int:
        return len(self.own)

    @property
    def on_cpu(self) -> bool:
        """Whether the model is there."""
        return self.own.device.type == "cpu"

    def take(self, items: Ints) -> np.ndarray:
        """Those of some items (m, D')."""
        if self.host_bias is None:
            return self.host.take(items, 0)
        some: np.ndarray = np.empty((len(items), self.width), self.host.dtype)
        some[:, :-1], some[:, -1] = self.host.take(items, 0), self.host_bias.take(items)
        return some

    def part(self, first: int, end: int) -> np.ndarray:
        """Those of items first .. end - 1 as one array."""
        if self.host_bias is None:
            return self.host[first:end]
        return np.column_stack([self.host[first:end], self.host_bias[first:end]])

    def products(self, users: Tensor, first: int = 0, end: int | None = None) -> Tensor:
        """Products of user vectors (n, D'), where these are, and of items first .. end - 1."""
        some = self.own[first:end].t()
        if self.bias is None:
            return users @ some
        return (users[:, :-1] @ some).addcmul_(users[:, -1:], self.bias[first:end])

    def products_on_cpu(self, users: np.ndarray) -> np.ndarray:
        """The same with all items, of user vectors (n, D') as arrays."""
        own = users if self.host_bias is None else users[:, :-1]
        found: np.ndarray = own @ self.host.T
        if self.host_bias is not None:
            found += users[:, -1:] * self.host_bias
        return found

    def largest(self) -> float:
        """The length of the longest one."""
        squares: np.ndarray = np.einsum("nd,nd->n", self.host, self.host)
        if self.host_bias is not None:
            squares += self.host_bias**2
        return float(np.sqrt(squares.max()))

    def digest(self, with_bias: bool = True) -> str:
        """SHA-256 of the vectors as one array, with the bias or without."""
        if self.host_bias is None or not with_bias:
            return hashlib.sha256(np.ascontiguousarray(self.host).data).hexdigest()
        hasher = hashlib.sha256()
        for first in range(0, len(self), ROWS):
            hasher.update(np.ascontiguousarray(self.part(first, first + ROWS)).data)
        return hasher.hexdigest()


def vectors_of(scorer: Scorer) -> ItemVectors | None:
    """Item vectors of scores that are products on the CPU.

    None where scores are no products of vectors, nor of a counting model, whose biases are no
    directions.
    """
    of_vectors = scorer.has_vectors and isinstance(scorer.model, SequenceModel)
    if of_vectors and scorer.model.device.type == "cpu":
        return ItemVectors.of(scorer)
    return None


def checked_vectors(scorer: Scorer) -> ItemVectors:
    """Item vectors, to be put into cells.

    Raises
    ------
    UsageError
        When there are none, or the model is on another device.
    """
    vectors, model = vectors_of(scorer), scorer.model
    if vectors is None:
        raise UsageError(
            f"{model.name} on {model.device} has no approximate index, which is for vectors of "
            "items on the CPU: use the exact one"
        )
    return vectors
