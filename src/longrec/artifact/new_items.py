"""New items for a catalog, checked: ids that it does not have, and their vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl
import torch

from longrec.core.arguments import described
from longrec.core.errors import UsageError
from longrec.data.catalog import Catalog, as_ids
from longrec.data.given_ids import check_ids


def new_ids(catalog: Catalog, ids: Sequence[Any] | pl.Series) -> pl.Series:
    """Ids that a catalog does not have, each once, in its own type.

    Raises
    ------
    UsageError
        When one is known already, is given twice or is of another type, or they are no list.
    """
    more = as_ids(check_ids("ids", ids), catalog.ids.dtype, "item")
    if more.null_count() or more.n_unique() < len(more) or (catalog.find(more) > 0).any():
        raise UsageError(
            f"{len(more)} new items: each must be an id of type {catalog.ids.dtype} that the "
            "catalog does not have, and given once"
        )
    return more


def finite_vectors(vectors: Any, like: torch.Tensor) -> torch.Tensor:
    """Vectors that are given for items, in the type and on the device of the model's own.

    Raises
    ------
    UsageError
        When they are no tensor or array of numbers, or one of the numbers is not finite in that
        type.
    """
    try:
        given = torch.as_tensor(vectors)
    except (TypeError, ValueError, RuntimeError):
        raise _no_vectors(described(vectors)) from None
    if given.dtype == torch.bool or given.is_complex():
        raise _no_vectors(f"of {given.dtype}")
    own = given.to(like)
    bad = (~own.isfinite()).nonzero()
    if len(bad):
        at = tuple(bad[0].tolist())
        raise UsageError(
            f"vectors.{'.'.join(map(str, at))} is {given[at].item()}; every number of a vector "
            f"must be finite in {like.dtype}"
        )
    return own


def _no_vectors(kind: str) -> UsageError:
    return UsageError(f"vectors is {kind}; give a tensor or an array of numbers, a row for each id")
