"""The one score by which items are ranked: a model's, and what is added to it.

Evaluation, retrieval, streams and export ask a `Scorer` and nobody else, so that they rank alike.
"""

from __future__ import annotations

import torch
from torch import Tensor

from longrec.models.common.added_score import AddedScore
from longrec.models.common.base import AddedRows, CountingModel, Model
from longrec.models.common.sequence import SequenceModel


class Scorer:
    """Scores of items for users of whom a model's h is known, and the last known items.

    It keeps nothing: weights may change between two calls.

    Parameters
    ----------
    model : Model
    added : AddedScore or None
        Of the same catalog.

    Attributes
    ----------
    n_items : of the catalog.
    reach : how many of a user's last known items are read besides h; 0: none.
    has_bias : whether vectors have a bias as their last coordinate.
    """

    def __init__(self, model: Model, added: AddedScore | None = None) -> None:
        self.model, self.added, self.n_items = model, added, model.n_items
        self.reach = 0 if added is None else added.reach
        self.has_bias = added is not None or self._bias_of_model() is not None

    @property
    def has_vectors(self) -> bool:
        """Whether scores, but for the added rows, are products of users' and items' vectors.

        Those of a counting model are: its vectors are the biases. Those of a model that scores h
        and a candidate together are not.
        """
        if isinstance(self.model, SequenceModel):
            return not self.model.target_aware
        return isinstance(self.model, CountingModel)

    @property
    def has_rows(self) -> bool:
        """Whether something is added to some items of some users, by their last items."""
        own = self.model.reach if isinstance(self.model, CountingModel) else 0
        return max(own, self.reach) > 0

    def score(self, h: Tensor, items: Tensor | None = None, recent: Tensor | None = None) -> Tensor:
        """Scores of items.

        Parameters
        ----------
        h : Tensor
            (n, W), after each user's last event.
        items : Tensor or None
            Item indices: (C,), the same for all; (n, C), for each its own; None for all items.
        recent : Tensor or None
            (n, reach) int64, each user's last known items, the latest first; 0 where there were
            none. Left out where `reach` is 0.

        Returns
        -------
        Tensor
            (n, C); of all items (n, n_items + 1), whose column 0 (padding) is -inf.
        """
        scores = self.model.score(h, items)
        if self.added is None:
            return scores
        bias = self.added.bias().to(scores)
        scores = scores + (bias if items is None else bias[items])
        rows = self._added_rows(recent)
        if rows is None:
            return scores
        row, item, value = (part.to(h.device) for part in rows)
        if items is None:
            scores[row, item] += value.to(scores)
            return scores
        return scores + self._of_rows(row, item, value.to(scores), items.expand_as(scores))

    def rows(self, h: Tensor, recent: Tensor | None) -> AddedRows | None:
        """What is added to products of vectors, for some items of some users; None: nothing.

        Raises
        ------
        ValueError
            When the users' last items are needed and left out.
        """
        added = self._added_rows(recent)
        if not isinstance(self.model, CountingModel) or not self.model.reach:
            return added
        counted = self.model.rows(h[:, : self.model.reach])
        return counted if added is None else _sum_rows(counted, added, self.n_items)

    def _added_rows(self, recent: Tensor | None) -> AddedRows | None:
        if self.added is None or not self.reach:
            return None
        if recent is None:
            raise ValueError(
                f"the added score {self.added.name!r} reads the last {self.reach} items of each "
                "user: give them as recent (n, reach)"
            )
        return self.added.rows(recent.to(self.added.device))

    def bias(self) -> Tensor | None:
        """What every user's items get alike (n_items + 1,): the model's bias and the added one."""
        of_model = self._bias_of_model()
        if self.added is None:
            return of_model
        added = self.added.bias()
        return added if of_model is None else of_model + added.to(of_model)

    def user_vectors(self, h: Tensor) -> Tensor:
        """h (n, W) -> (n, R, D'): the best product with an item's vector is its score.

        Where there is a bias, its last coordinate is 1.
        """
        if isinstance(self.model, CountingModel):
            return torch.ones(len(h), 1, 1, dtype=torch.float64, device=h.device)
        assert isinstance(self.model, SequenceModel)
        users = self.model.user_vectors(h)
        return torch.nn.functional.pad(users, (0, 1), value=1.0) if self.has_bias else users

    def item_vectors(self) -> Tensor:
        """Vectors of all items (n_items + 1, D'), row 0 being padding.

        Where there is a bias, it is the last coordinate; otherwise the model's own are given,
        without a copy.
        """
        vectors, bias = self.vectors_and_bias()
        return vectors if bias is None else torch.cat([vectors, bias[:, None]], 1)

    def vectors_and_bias(self) -> tuple[Tensor, Tensor | None]:
        """The same apart: (n_items + 1, D), the model's own, and (n_items + 1,) of their type."""
        bias = self.bias()
        if isinstance(self.model, CountingModel):
            assert bias is not None
            return bias[:, None], None
        assert isinstance(self.model, SequenceModel)
        vectors = self.model.item_vectors()
        return vectors, None if bias is None else bias.to(vectors)

    def _bias_of_model(self) -> Tensor | None:
        if isinstance(self.model, CountingModel):
            return self.model.bias()
        return self.model.item_bias() if isinstance(self.model, SequenceModel) else None

    def _of_rows(self, row: Tensor, item: Tensor, value: Tensor, items: Tensor) -> Tensor:
        """What the rows add to items (n, C), each user's own: (n, C)."""
        if not len(row):
            return torch.zeros_like(items, dtype=value.dtype)
        key, order = (row * (self.n_items + 1) + item).sort()
        users = torch.arange(len(items), device=items.device)[:, None]
        wanted = users * (self.n_items + 1) + items
        at = torch.searchsorted(key, wanted).clamp_max(len(key) - 1)
        return torch.where(key[at] == wanted, value[order][at], 0.0)


def _sum_rows(one: AddedRows, other: AddedRows, n_items: int) -> AddedRows:
    """Both together, each (row, item) once."""
    row, item = torch.cat([one.row, other.row]), torch.cat([one.item, other.item])
    pairs, place = torch.unique(row * (n_items + 1) + item, return_inverse=True)
    value = one.value.new_zeros(len(pairs))
    value.index_add_(0, place, torch.cat([one.value, other.value.to(one.value)]))
    return AddedRows(pairs // (n_items + 1), pairs % (n_items + 1), value)
