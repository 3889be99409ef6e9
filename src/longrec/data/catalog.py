"""The catalog: the items known to a model, with their ids and counts.

Item index 0 is padding; row r of the catalog is item index r + 1. Ids keep the type they came in.
The look-up of ids (`positions_of`) is shared with the user ids of a histories folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from longrec.core.errors import DataError, UsageError
from longrec.data.catalog_file import read_catalog


@dataclass(frozen=True, eq=False)
class Catalog:
    """Item ids in index order, and how often each occurs in the log; it does not change.

    Attributes
    ----------
    ids
        (n_items,) unique ids in their own type; row r has item index r + 1.
    counts
        (n_items,) int64, events of each item.
    """

    ids: pl.Series
    counts: np.ndarray

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.counts):
            raise DataError(
                f"A catalog of {len(self.ids)} ids was given {len(self.counts)} counts."
            )
        if self.ids.null_count():
            raise DataError("A catalog may not hold a null id.")
        # Its own, at no cost: what is known of the ids is kept, and a caller's may change in place.
        object.__setattr__(self, "ids", self.ids.clone())

    def __repr__(self) -> str:
        return f"Catalog({self.n_items:,} items, ids of type {self.ids.dtype})"

    @property
    def n_items(self) -> int:
        """Number of items, without padding."""
        return len(self.ids)

    @cached_property
    def _sorted(self) -> SortedIds:
        return SortedIds.of(self.ids, "item")

    @cached_property
    def popular(self) -> np.ndarray:
        """Item indices (n_items,) by how often they occur, most often first; ties in order."""
        return np.argsort(-self.counts, kind="stable") + 1

    def find(self, ids: Sequence[Any] | pl.Series) -> np.ndarray:
        """Item indices (n,) int64 of these ids; 0 where an id is unknown.

        Integer ids may be given as strings, as a command line gives them.
        """
        return self._sorted.find(ids) + 1

    def take(self, indices: np.ndarray) -> pl.Series:
        """Ids of these item indices, any shape flattened; null for padding (index 0)."""
        rows = np.asarray(indices, dtype=np.int64).ravel() - 1
        if rows.size and (rows.max() >= self.n_items or rows.min() < -1):
            bad = rows[(rows >= self.n_items) | (rows < -1)][0] + 1
            raise UsageError(f"Item index {bad} is not in 0..{self.n_items}.")
        if not rows.size or rows.min() >= 0:
            return self.ids.gather(rows)
        return self.ids.gather(pl.Series(rows).replace(-1, None))

    @cached_property
    def digest(self) -> str:
        """Hex digest of the ids in index order and of their type; counts do not enter."""
        hasher = hashlib.sha256()
        hash_ids(hasher, self.ids)
        return hasher.hexdigest()

    def save(self, path: Path | str) -> None:
        """Write as a Parquet file with the columns `id` and `count`."""
        table = pa.table({"id": self.ids.to_arrow(), "count": self.counts})
        # Ids are all different: a dictionary of them would be one more copy.
        pq.write_table(table, str(path), compression="zstd", use_dictionary=False)

    @classmethod
    def load(cls, path: Path | str, n_items: int | None = None) -> Catalog:
        """Read what `save` wrote.

        Parameters
        ----------
        path : path
        n_items : int or None
            How many items it must have, where that is known: another number is told before
            anything is read.

        Raises
        ------
        DataError
            When the file is missing, damaged or foreign, or holds an id twice or less than no
            events. What it says of its size is looked at first: a small file may claim any.
        """
        ids, counts = read_catalog(Path(path), n_items)
        return cls(ids, counts.to_numpy(writable=True).astype(np.int64, copy=False))


@dataclass(frozen=True, eq=False)
class SortedIds:
    """Ids in sorted order with the row each came from: look-ups by binary search, no hash table."""

    ids: pl.Series
    rows: np.ndarray
    what: str

    @classmethod
    def of(cls, ids: pl.Series, what: str) -> SortedIds:
        """Sort once; ids that are sorted already (as `prepare` writes them) are not copied."""
        if ids.is_sorted():
            return cls(ids, np.arange(len(ids)), what)
        order = ids.arg_sort().to_numpy()
        return cls(ids.gather(order), order.astype(np.int64), what)

    def find(self, wanted: Sequence[Any] | pl.Series) -> np.ndarray:
        """Rows (n,) int64 of the wanted ids, -1 where unknown or null."""
        series = as_ids(wanted, self.ids.dtype, self.what)
        if not len(series) or not len(self.ids):
            return np.full(len(series), -1, dtype=np.int64)
        # A null would sort before everything: look up any known id and mask it afterwards.
        known = series.is_not_null()
        positions = self.ids.search_sorted(series.fill_null(self.ids[0]))
        positions = positions.clip(upper_bound=len(self.ids) - 1)
        hit = (known & (self.ids.gather(positions) == series).fill_null(False)).to_numpy()
        return np.where(hit, self.rows[positions.to_numpy()], -1).astype(np.int64)


def as_ids(wanted: Sequence[Any] | pl.Series, dtype: pl.DataType, what: str) -> pl.Series:
    """Wanted ids as a series of the catalog's own type; what cannot be such an id becomes null.

    Strings that spell an integer stand for it ("17" for 17), and integers for their spelling.
    """
    if isinstance(wanted, str | bytes):
        raise UsageError(f"Give {what} ids as a list, not as one string: [{wanted!r}].")
    if isinstance(wanted, pl.Series):
        series = wanted
    else:
        values = list(wanted)
        try:
            series = pl.Series(values)
        except (TypeError, pl.exceptions.PolarsError, OverflowError):
            # Ids of several types in one list: compare them by their spelling.
            series = pl.Series([None if value is None else str(value) for value in values])
    if series.dtype == dtype:
        return series
    if series.dtype.is_float() and (dtype.is_integer() or dtype == pl.String):
        whole = series.cast(pl.Int64, strict=False)
        series = pl.select(pl.when(whole.cast(series.dtype) == series).then(whole)).to_series()
    if isinstance(series.dtype, pl.Categorical | pl.Enum):
        series = series.cast(pl.String)
    try:
        own = series.cast(dtype, strict=False)
        if series.dtype == pl.String and dtype.is_integer():  # "007" is another id than 7
            own = pl.select(pl.when(own.cast(pl.String) == series).then(own)).to_series()
        return own
    except pl.exceptions.PolarsError as error:
        raise UsageError(
            f"{what.capitalize()} ids are of type {dtype}, but {series.dtype} was given."
        ) from error


def hash_ids(hasher: Any, ids: pl.Series) -> None:
    """Feed a hasher with ids: their type, then lengths and bytes, whatever the chunking."""
    hasher.update(str(ids.dtype).encode())
    if ids.dtype not in (pl.String, pl.Binary):
        physical = ids.to_physical()
        if physical.dtype.is_numeric() and not isinstance(physical.dtype, pl.Decimal):
            hasher.update(np.ascontiguousarray(physical.to_numpy()).data)
            return
        ids = ids.cast(pl.String)
    hasher.update(np.ascontiguousarray(ids.cast(pl.Binary).bin.size().to_numpy()).data)
    array = ids.cast(pl.Binary).rechunk().to_arrow().cast(pa.large_binary())
    for chunk in array.chunks if isinstance(array, pa.ChunkedArray) else [array]:
        ends = np.frombuffer(chunk.buffers()[1], dtype=np.int64)
        first, last = ends[chunk.offset], ends[chunk.offset + len(chunk)]
        hasher.update(memoryview(chunk.buffers()[2] or b"")[first:last])
