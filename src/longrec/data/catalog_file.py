"""A catalog's file, Parquet with the columns id and count, read whatever it may claim.

What it says of its size is looked at before any of it is read: a small file may claim any number of
rows, and equal values, which a catalog has not, stand in it once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from longrec.core.errors import DataError, first_line
from longrec.core.format import listed, size

ID_BYTES = 1024
"""Bytes of an id, in the mean, up to which a catalog is read."""
PLAIN = {"PLAIN", "RLE", "BIT_PACKED"}
SHARED = {"RLE_DICTIONARY", "PLAIN_DICTIONARY"}
"""Encodings of text in Parquet, by which each value stands in the file, or equal ones once."""
TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
"""What tells types whose values have a length of their own."""
OTHERS = (
    *(pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal128),
    *(pa.types.is_date, pa.types.is_timestamp, pa.types.is_time),
)
"""What tells further types that ids may have."""


def read_catalog(path: Path, n_items: int | None) -> tuple[pl.Series, pl.Series]:
    """Ids, each once, and their counts, 0 or more, of a catalog's file; see `Catalog.load`."""
    if not path.is_file():
        raise DataError(f"{path}: no such catalog file.")
    try:
        # read_table would make a folder called "day=1" above the file a column, and take half
        # a second to import pandas.
        with pq.ParquetFile(str(path)) as file:
            shared = _check_claims(file, path, n_items)
            kind = file.schema_arrow.field(0).type
        with pq.ParquetFile(str(path), read_dictionary=["id"] if shared else None) as file:
            table = file.read(["id", "count"])
        ids = table.column("id")
        if shared:
            ids = _decoded(ids, kind, path)
        ids.validate(full=True)  # text may be none
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({first_line(error)}).") from error
    ids, counts = (
        pl.Series(n, pl.from_arrow(x)) for n, x in (("id", ids), ("count", table.column("count")))
    )
    if counts.null_count() or (len(counts) and counts.min() < 0):  # type: ignore[operator]
        raise DataError(f"{path}: column count has less than no events, or no number.")
    if ids.null_count():
        raise DataError(f"{path}: column id has a null.")
    if (twice := _twice(ids)) is not None:
        raise DataError(f"{path}: the id {twice!r:.100} stands twice; each stands once.")
    return ids, counts


def _check_claims(file: pq.ParquetFile, path: Path, n_items: int | None) -> bool:
    """Whether equal ids stand once in the file.

    Raises DataError unless it says that it is a catalog, and of a size that one may have.
    """
    names, metadata = file.schema_arrow.names, file.metadata
    if names[:2] != ["id", "count"]:
        raise DataError(
            f"{path}: a catalog has the columns id and count, this file has {listed(names)}."
        )
    kind, of_count = (file.schema_arrow.field(n).type for n in (0, 1))
    if not any(is_such(kind) for is_such in (*TEXT, *OTHERS)):
        raise DataError(f"{path}: column id is of type {kind!s:.100}, which no id has.")
    if not pa.types.is_integer(of_count):
        raise DataError(f"{path}: column count is of type {of_count!s:.100}; it holds integers.")
    rows = metadata.num_rows
    if n_items is not None and rows != n_items:
        raise DataError(f"{path} has {rows:,} items, and should have {n_items:,}.")
    columns = [
        metadata.row_group(group).column(n)
        for group in range(metadata.num_row_groups)
        for n in (0, 1)
    ]
    whole = sum(column.total_uncompressed_size for column in columns)
    if whole > _most_bytes(rows):
        raise DataError(
            f"{path}: its {rows:,} ids would take {size(whole)}; at most {size(ID_BYTES)} each are "
            "read."
        )
    if not any(is_text(kind) for is_text in TEXT):
        return False
    encodings = {name for column in columns[::2] for name in column.encodings}
    if others := encodings - PLAIN - SHARED:
        raise DataError(f"{path}: column id is encoded as {min(others)}, which longrec does not.")
    return bool(encodings & SHARED)


def _decoded(ids: pa.ChunkedArray, kind: pa.DataType, path: Path) -> pa.ChunkedArray:
    """Ids of which equal ones were read once, each in full: few bytes may stand for many."""
    taken = 0
    for chunk in ids.chunks:
        lengths = pc.binary_length(chunk.dictionary).cast(pa.int64())
        taken += pc.sum(lengths.take(chunk.indices)).as_py() or 0
    if taken > _most_bytes(len(ids)):
        raise DataError(
            f"{path}: its {len(ids):,} ids would take {size(taken)}; at most {size(ID_BYTES)} each "
            "are read."
        )
    return ids.cast(kind)


def _most_bytes(rows: int) -> int:
    return ID_BYTES * rows + (1 << 20)


def _twice(ids: pl.Series) -> Any:
    """An id that stands twice; None where each stands once."""
    if ids.is_sorted():
        again = ids[1:] == ids[:-1]
        return ids[1:].filter(again)[0] if again.any() else None
    return None if ids.n_unique() == len(ids) else ids.filter(ids.is_duplicated())[0]
