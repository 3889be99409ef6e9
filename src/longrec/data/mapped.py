"""Columns of Arrow files as the files map them, and the digest of what histories hold."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from longrec.core.errors import DataError, first_line
from longrec.data.catalog import hash_ids
from longrec.data.joined import parts_of


def map_columns(
    path: Path, types: Mapping[str, pa.DataType | None], rows: int, mend: str
) -> dict[str, pa.Array]:
    """Columns of a file, each one slice of the mapped file; those of `types` must be there.

    Raises
    ------
    DataError
        When they are not, or the file is damaged: then `mend` says what to do.
    """
    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
            if reader.num_record_batches != 1:
                raise DataError(f"{path} has {reader.num_record_batches} record batches, not 1.")
            batch = reader.get_batch(0)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is damaged ({first_line(error)}): {mend}.") from error
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    for name, kind in types.items():
        if name not in columns or (kind is not None and columns[name].type != kind):
            raise DataError(f"{path} has no column {name!r} of type {kind or 'any'}.")
    for name, column in columns.items():
        if len(column) != rows or column.null_count:
            raise DataError(
                f"{path}: column {name!r} has {len(column)} rows ({column.null_count} null), "
                f"expected {rows}."
            )
    return columns


def view(column: pa.Array) -> np.ndarray:
    """A mapped column as an array, which is not copied."""
    found: np.ndarray = column.to_numpy(zero_copy_only=True)
    return found


def content_digest(
    user_ids: pl.Series,
    offsets: np.ndarray,
    items: np.ndarray,
    times: np.ndarray | None,
    item_ids: pl.Series,
    extra: Mapping[str, np.ndarray],
) -> str:
    """SHA-256 of everything that training can see."""
    hasher = hashlib.sha256()
    hash_ids(hasher, user_ids)
    hash_ids(hasher, item_ids)
    for name, column in {"offset": offsets, "item": items, "time": times, **extra}.items():
        if column is not None:
            hasher.update(column_head(name, column.dtype, len(column)))
            for part in parts_of(column):
                hasher.update(part.data)
    return hasher.hexdigest()


def column_head(name: str, dtype: np.dtype[Any], rows: int) -> bytes:
    """What the digest takes of a column before its bytes."""
    return f"{name}:{dtype.str}:{rows}".encode()
