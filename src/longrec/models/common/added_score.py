"""Scores that are added to a model's: a bias of each item, and more for some items of some users.

    score(user, i) = the model's + bias_i + what the rows add for the user's last known items

What an added score knows are the catalog and the last `reach` known items of a user, so that a
stream keeps these few beside the model's state, and exact search merges the index's best with the
items of the rows. Evaluation, retrieval, streams and export see it through `Scorer` alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from longrec.config.border import check_config, is_frozen, make_config
from longrec.core.bounds import Bounds
from longrec.core.errors import UsageError
from longrec.core.registry import Registry
from longrec.models.common.base import AddedRows
from longrec.models.common.followers import check_numbers, take_stored_sizes

ADDED_SCORES: Registry[type[AddedScore]] = Registry("added score")
A = TypeVar("A", bound="type[AddedScore]")


class AddedScore(nn.Module):
    """A score to add to any model's. What it has counted are buffers, saved as they are.

    Parameters
    ----------
    config : a frozen dataclass of plain values, of `config_class`.
    n_items : int
        Items of the catalog.

    Attributes
    ----------
    name : what it is registered as.
    reach : how many of a user's last known items `rows` reads; 0: none, and there are no rows.
    """

    name: ClassVar[str]
    config_class: ClassVar[type[Any]]
    reach: int = 0

    def __init__(self, config: Any, n_items: int) -> None:
        super().__init__()
        self.config, self.n_items = config, n_items

    def check_counts(self) -> None:
        """Raise ValueError where tensors that were loaded hold what none of this score could."""

    def bias(self) -> Tensor:
        """What every user's items get alike: (n_items + 1,), finite, 0 for padding."""
        raise NotImplementedError

    def rows(self, recent: Tensor) -> AddedRows:
        """What some items of some users get on top of the bias.

        Parameters
        ----------
        recent : Tensor
            (n, reach) int64, each user's last known items, the latest first; 0 where there were
            none.
        """
        none = recent.new_zeros(0)
        return AddedRows(none, none, self.bias().new_zeros(0))

    def followed(self, recent: Tensor, item: int) -> Tensor | None:
        """How often an item followed each of a user's last ones; None: this score counts no such.

        Parameters
        ----------
        recent : Tensor
            (reach,) int64, the latest first; 0 where there were none.
        item : int
            Its index.

        Returns
        -------
        Tensor or None
            (reach,) float64.
        """
        return None

    @property
    def device(self) -> torch.device:
        """Where its counts are."""
        return next((x.device for x in self.buffers()), torch.device("cpu"))

    def with_items(self, n_items: int) -> Self:
        """The same for a catalog that has grown to n_items by new items at its end."""
        raise NotImplementedError

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        take_stored_sizes(self, self._buffers, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def register_added_score(name: str) -> Callable[[A], A]:
    """Class decorator: put an added score under `name`, by which saved recommenders find it.

    Raises
    ------
    ValueError
        When the name is taken.
    TypeError
        When the class does not say what an added score must say.
    """

    def register(cls: A) -> A:
        if not is_frozen(getattr(cls, "config_class", None)):
            raise TypeError(f"{cls.__name__}.config_class must be a frozen dataclass")
        for method in ("bias", "with_items"):
            if getattr(cls, method) is getattr(AddedScore, method):
                raise TypeError(f"{cls.__name__} must define {method}: see AddedScore.{method}")
        ADDED_SCORES.add(name, cls)
        cls.name = name
        return cls

    return register


def check_added_score(added: AddedScore, n_items: int) -> None:
    """Check that an added score is registered, rightly set, and fits a catalog of n_items.

    Raises
    ------
    UsageError
        For settings that its config's fields do not allow: each with what it may be.
    ValueError
        For anything else.
    """
    if ADDED_SCORES.get(getattr(added, "name", "")) is not type(added):
        raise ValueError(
            f"{type(added).__name__} is not registered: put @register_added_score(name) on it, or "
            "what is saved could not be loaded"
        )
    try:
        check_config(added.config)  # which Python may have made without any border
    except UsageError as error:
        raise UsageError(f"the added score {added.name!r}: {error}") from None
    if added.n_items != n_items:
        raise ValueError(
            f"the added score {added.name!r} is for {added.n_items:,} items, and the catalog has "
            f"{n_items:,}: make it of this catalog, or grow it by with_items({n_items})"
        )
    try:
        added.check_counts()
    except ValueError as error:
        raise ValueError(f"the added score {added.name!r}: {error}") from None
    reach = added.reach
    if not isinstance(reach, int) or reach < 0:
        raise ValueError(
            f"reach of the added score {added.name!r} is {reach!r}; it must be 0 or more"
        )
    bias = added.bias()
    if tuple(bias.shape) != (n_items + 1,) or not bool(bias.isfinite().all()):
        raise ValueError(
            f"the bias of the added score {added.name!r} must be ({n_items + 1},) and finite, and "
            f"has shape {tuple(bias.shape)}"
        )
    if reach:
        last = torch.arange(reach, device=bias.device) % n_items + 1
        _check_rows(added, added.rows(torch.stack([last, torch.zeros_like(last)])))


def _check_rows(added: AddedScore, rows: AddedRows) -> None:
    """Raise ValueError unless rows, of two users, are what `AddedScore.rows` says."""
    row, item, value = rows
    right = (
        row.shape == item.shape == value.shape == (len(row),)
        and bool(((row >= 0) & (row < 2) & (item > 0) & (item <= added.n_items)).all())
        and len(torch.unique(torch.stack([row, item]), dim=1).t()) == len(row)
        and bool(value.isfinite().all())
    )
    if not right:
        raise ValueError(
            f"rows of the added score {added.name!r} must be (row, item, value), each (m,): "
            f"numbers of users, items from 1 to {added.n_items}, each pair once, and finite values"
        )


@dataclass(frozen=True)
class PopularityConfig:
    """Settings of the added score `popularity`.

    Attributes
    ----------
    weight : what the logarithm of an item's share of the events is multiplied by.
    smoothing : events that every item is given besides its own.
    """

    weight: float = 0.1
    smoothing: Annotated[float, Bounds(gt=0)] = 1.0


@register_added_score("popularity")
class PopularityScore(AddedScore):
    """weight * log p_i, with p_i = (events of i + smoothing) / (all events + N smoothing)."""

    config_class = PopularityConfig
    counts: Tensor

    def __init__(self, config: PopularityConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.register_buffer("counts", torch.zeros(n_items + 1, dtype=torch.int64))

    @classmethod
    def of(cls, counts: np.ndarray, weight: float = 0.1, smoothing: float = 1.0) -> Self:
        """Of each item's events (n_items,), `recommender.catalog.counts` for instance."""
        settings = {"weight": weight, "smoothing": smoothing}
        made = cls(make_config(PopularityConfig, settings), len(counts))
        made.counts[1:] = torch.from_numpy(np.asarray(counts, np.int64))
        return made

    def check_counts(self) -> None:
        check_numbers(self, ("counts",), (self.n_items + 1,))

    def bias(self) -> Tensor:
        smooth = self.counts.double() + self.config.smoothing
        bias = self.config.weight * (smooth.log() - math.log(float(smooth[1:].sum())))
        bias[0] = 0
        return cast(Tensor, bias.float())

    def with_items(self, n_items: int) -> Self:
        grown = type(self)(self.config, n_items)
        grown.counts[: len(self.counts)] = self.counts
        return grown.to(self.counts.device)
