"""Ids that callers give, checked before anything is looked up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from datetime import date, time, timedelta
from numbers import Number
from types import NoneType
from typing import Any

import numpy as np
import polars as pl

from longrec.core.arguments import described
from longrec.core.errors import UsageError

ID_TYPES = (str, bytes, Number, np.generic, date, time, timedelta, NoneType)
"""What may stand for an id; None and NaN are nobody's. A datetime is a date."""


def check_id(name: str, value: Any) -> None:
    """One id."""
    if value is None or not _may_be_id(type(value)):
        raise UsageError(f"{name} is {described(value)}; give one id, text or a number")


def check_ids(name: str, given: Any, wanted: str = "a list of ids") -> Sequence[Any] | pl.Series:
    """Ids in an order, given as a list, tuple, array, or Series of polars or pandas.

    Raises
    ------
    UsageError
        For one id instead of several, what has no length or no order (generators, sets, mappings),
        a table, and what is no id among them: lists, mappings, booleans.
    """
    if not is_list(given):
        raise UsageError(f"{name} is {described(given)}; give {wanted}")
    if isinstance(given, pl.Series):
        if given.dtype.is_nested() or given.dtype == pl.Boolean:
            raise UsageError(f"{name} is a Series of {given.dtype}; give {wanted}")
        return given
    if isinstance(given, np.ndarray) and given.dtype.kind == "M":
        given = list(given)  # nanoseconds would become numbers
    elif not isinstance(given, list | tuple | range):
        given = given.tolist() if hasattr(given, "tolist") else list(given)
    if not isinstance(given, list | tuple | range):
        raise UsageError(f"{name} has no dimension; give {wanted}")
    odd = tuple(kind for kind in {type(one) for one in given} if not _may_be_id(kind))
    if odd:
        at = next(at for at, one in enumerate(given) if isinstance(one, odd))
        one = next(one for one in given if isinstance(one, odd))
        raise UsageError(f"{name}.{at} is {described(one)}; give {wanted}, each text or a number")
    return given


def as_names(ids: Sequence[Any] | pl.Series) -> pl.Series:
    """Ids as they were given; of several types by their spelling."""
    try:
        return pl.Series(ids, strict=True)
    except (TypeError, OverflowError, pl.exceptions.PolarsError):
        return pl.Series([str(one) for one in ids])


def is_list(given: Any) -> bool:
    """Whether a value has elements in an order, and is neither text nor a table."""
    return (
        isinstance(given, Iterable)
        and hasattr(given, "__len__")
        and not isinstance(given, str | bytes | bytearray | Mapping | Set)
        and not hasattr(given, "columns")
    )


def _may_be_id(kind: type) -> bool:
    if kind.__module__.partition(".")[0] == "pandas":  # its times, and its sign for nothing
        return True
    return issubclass(kind, ID_TYPES) and not issubclass(kind, bool | np.bool_ | complex)
