"""Items not to be returned, as bits: bit i of a row, lowest first in a byte, for item index i."""

from __future__ import annotations

import numpy as np

from longrec.core.arrays import Ints


def row_bytes(n_items: int) -> int:
    """Bytes of a row: a bit for each item index, padding included."""
    return n_items // 8 + 1


def as_bits(items: Ints | list[int], n_items: int) -> np.ndarray:
    """Item indices as a row (row_bytes,) of uint8."""
    whole = np.zeros(8 * row_bytes(n_items), bool)
    whole[items] = True
    return np.packbits(whole, bitorder="little")


def as_booleans(rows: np.ndarray, n_items: int) -> np.ndarray:
    """Rows (n, row_bytes) as booleans (n, n_items + 1)."""
    return np.unpackbits(rows, axis=-1, count=n_items + 1, bitorder="little").view(bool)


def allowed(row: np.ndarray, items: Ints) -> Ints:
    """Those of some items that a row does not bar."""
    found: Ints = items[row[items >> 3] >> (items & 7).astype(np.uint8) & 1 == 0]
    return found


def many_allowed(row: np.ndarray, n_items: int) -> int:
    """How many items a row does not bar; up to eight less where bits beside the items are set."""
    words = len(row) // 8 * 8
    barred = np.bitwise_count(row[:words].view(np.uint64)).sum(dtype=np.int64)
    return n_items - int(barred) - int(np.bitwise_count(row[words:]).sum())


def all_allowed(row: np.ndarray, n_items: int) -> Ints:
    """All items that a row does not bar."""
    items = np.flatnonzero(~as_booleans(row, n_items))
    return items[items > 0]
