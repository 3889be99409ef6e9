"""Ids as keys: the bytes by which a store knows users, items and events, and the items' indices.

An id's key is its text: 42 and "42" are one id, here as everywhere in longrec.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import Any, Literal

import numpy as np
import polars as pl

from longrec.core.errors import DataError, UsageError
from longrec.data.catalog import Catalog

Field = Literal["user", "item", "event_id"]
MAX_BYTES: dict[Field, int] = {"user": 400, "item": 400, "event_id": 200}
"""Bytes of the longest keys; LMDB has none above 511."""
EXACT_FLOATS = 2.0**53
"""Floats from here on stand for several whole numbers each."""
LOOP_UP_TO = 64
"""Keys up to which a loop finds them faster than arrays."""


def user_key(user: Any) -> bytes:
    """The key of a user's id.

    Parameters
    ----------
    user : str, int, bytes, whole float, or numpy scalar of these

    Raises
    ------
    UsageError
        When it is no id: None, NaN, a bool, of another type, empty, or above 400 bytes.
    """
    return _key(user, "user")


def item_key(item: Any) -> bytes:
    """The key of an item's id; see `user_key`."""
    return _key(item, "item")


def event_key(event_id: Any) -> bytes:
    """The key of an event's id, at most 200 bytes; see `user_key`."""
    return _key(event_id, "event_id")


def id_of(key: bytes) -> str:
    """The text of a key, to be shown."""
    return key.decode("utf-8", "backslashreplace")


def keys_of(ids: pl.Series, field: Field) -> pl.Series:
    """The keys of a column of ids, as a Series of Binary.

    Raises
    ------
    DataError
        When one is no id; the message names column, row and mend.
    """
    if isinstance(ids.dtype, pl.Categorical | pl.Enum) or ids.dtype.is_integer():
        ids = ids.cast(pl.String)
    if ids.dtype == pl.String:
        good = ids.str.len_bytes().is_between(1, MAX_BYTES[field]).fill_null(False)
        if good.all():
            return ids.cast(pl.Binary)
        ids = ids[: int((~good).arg_true()[0]) + 1]
    found = []
    for number, value in enumerate(ids.to_list(), 1):
        try:
            found.append(_key(value, field))
        except UsageError as error:
            raise DataError(f"column {ids.name!r}, row {number}: {error}") from None
    return pl.Series(ids.name, found, dtype=pl.Binary)


class ItemIndex:
    """Indices of items by their keys.

    Parameters
    ----------
    catalog : Catalog
        A million integer ids take 16 MB here, text takes a dict.

    Raises
    ------
    UsageError
        When the catalog's ids are of a type that no key can be made of.
    """

    def __init__(self, catalog: Catalog) -> None:
        ids = catalog.ids
        self._numbers = self._indices = np.zeros(0, np.int64)
        self._dict: dict[bytes, int] | None = None
        fits = ids.dtype.is_integer() and not ids.cast(pl.Int64, strict=False).null_count()
        if fits and len(ids):
            numbers = ids.cast(pl.Int64).to_numpy()
            order = numbers.argsort()
            self._numbers, self._indices = numbers[order], order + 1
            self._low, self._high = int(self._numbers[0]), int(self._numbers[-1])
            return
        try:
            keys = ids.cast(pl.Binary) if ids.dtype == pl.String else keys_of(ids, "item")
        except DataError as error:
            raise UsageError(f"the catalog's ids cannot be streamed: {error}") from error
        self._dict = dict(zip(keys.to_list(), range(1, len(ids) + 1), strict=True))

    def one(self, key: bytes) -> int:
        """The index of an item; 0 if it is unknown."""
        if self._dict is not None:
            return self._dict.get(key, 0)
        try:
            number = int(key)
        except ValueError:
            return 0
        # "007" and "1_0" are numbers to Python, and not how one is spelt.
        if not self._low <= number <= self._high or b"%d" % number != key:
            return 0
        at = self._numbers.searchsorted(number)
        return int(self._indices[at]) if self._numbers[at] == number else 0

    def find(self, keys: Sequence[bytes]) -> list[int]:
        """The indices of items; 0 where one is unknown."""
        if self._dict is not None:
            return list(map(self._dict.get, keys, repeat(0)))
        if len(keys) <= LOOP_UP_TO:
            return [self.one(key) for key in keys]
        try:
            text = pl.Series(keys, dtype=pl.Binary).cast(pl.String)
        except pl.exceptions.PolarsError:  # one is not UTF-8
            return [self.one(key) for key in keys]
        numbers = text.cast(pl.Int64, strict=False)
        spelt = (numbers.cast(pl.String) == text).fill_null(False).to_numpy()
        wanted = numbers.fill_null(0).to_numpy()
        at = self._numbers.searchsorted(wanted).clip(max=len(self._numbers) - 1)
        known = spelt & (self._numbers[at] == wanted)
        found: list[int] = np.where(known, self._indices[at], 0).tolist()
        return found


def _key(value: Any, field: Field) -> bytes:
    try:
        if isinstance(value, str):
            key = str.encode(value)
        elif isinstance(value, bytes):
            key = bytes(value)
        elif _is_whole_number(value):
            key = b"%d" % int(value)
        else:
            raise UsageError(
                f"{field} is {_described(value)}; give an id: text, a whole number, bytes"
            )
    except ValueError:  # half of a surrogate pair; thousands of digits
        raise UsageError(f"{field} is text that is not UTF-8, or no number of an id") from None
    if not key:
        raise UsageError(f"{field} is empty; give an id")
    if len(key) > MAX_BYTES[field]:
        raise UsageError(
            f"{field} has {len(key)} bytes and may have {MAX_BYTES[field]}; give a shorter id, "
            "such as a digest of it"
        )
    return key


def _is_whole_number(value: Any) -> bool:
    """Whether it is an int, or a float that stands for one whole number."""
    if isinstance(value, int | np.integer):
        return not isinstance(value, bool)
    is_float = isinstance(value, float | np.floating)
    return is_float and abs(value) <= EXACT_FLOATS and float(value).is_integer()


def _described(value: Any) -> str:
    """What was given instead of an id or a time; its type alone where the value may be long."""
    if value is None or isinstance(value, bool | float | np.generic):
        return repr(value)
    return f"of type {type(value).__name__}"
