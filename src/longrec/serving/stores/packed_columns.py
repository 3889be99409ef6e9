"""Further columns of logged events as bytes: JSON as the caller gave them, with names in order.

The log outlives every model, so that it keeps all columns, whether a model reads them or not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from longrec.core.errors import DataError, UsageError

Value = str | int | float | bool
"""A value of a column."""
MAX_COLUMNS, MAX_NAME, MAX_TEXT = 32, 64, 256
"""Columns of an event at most, and bytes of a name and of a text."""
MAX_INTEGER = 2**63 - 1


def pack_columns(columns: Mapping[str, Any] | None) -> bytes:
    """Columns of an event as they are logged; b"" where there are none.

    Parameters
    ----------
    columns : mapping or None
        Text, numbers and booleans by name, numpy scalars too; None is no value and left out.

    Raises
    ------
    UsageError
        When something else stands there, or a limit is passed; it names the column.
    """
    if columns is None:
        return b""
    if not isinstance(columns, Mapping):
        raise UsageError(
            f'columns is of type {type(columns).__name__}; give a mapping such as {{"type": "buy"}}'
        )
    if not columns:
        return b""
    if len(columns) > MAX_COLUMNS:
        raise UsageError(f"columns has {len(columns)} columns and may have {MAX_COLUMNS}")
    values = {}
    for name, value in columns.items():
        if not isinstance(name, str) or not 0 < _size(name, "columns") <= MAX_NAME:
            raise UsageError(
                f"columns has the name {_shown(name)}; give text of 1 to {MAX_NAME} bytes"
            )
        if value is not None:
            values[name] = _checked(name, value)
    if not values:
        return b""
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def unpack_columns(packed: bytes) -> dict[str, Value]:
    """The columns of which `pack_columns` made these bytes.

    Raises
    ------
    DataError
        When it made none of these.
    """
    if not packed:
        return {}
    try:
        found = json.loads(packed)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise DataError("an event's columns are damaged: restore the store from a backup")
    return found


def _checked(name: str, value: Any) -> Value:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        if (size := _size(value, f"columns.{name}")) > MAX_TEXT:
            raise UsageError(
                f"columns.{name} has {size} bytes and may have {MAX_TEXT}; give a shorter text"
            )
        return value
    if isinstance(value, int) and abs(value) <= MAX_INTEGER:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    shown = value if isinstance(value, int | float) else f"of type {type(value).__name__}"
    raise UsageError(
        f"columns.{name} is {_shown(shown)}; give text, a finite number (whole ones of at most 64 "
        "bits) or a boolean"
    )


def _size(text: str, field: str) -> int:
    """Bytes of a text."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:  # half of a surrogate pair
        raise UsageError(f"{field} has text that is not UTF-8") from None


def _shown(value: Any) -> str:
    shown = str(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
