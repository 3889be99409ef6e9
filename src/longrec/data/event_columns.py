"""Further columns of events: what one holds, and its values as models read them.

Text is read as int64 codes, its place among the words that training knew: -1 where an event has no
word, or one that training did not know. Numbers are read as float32, 0 where an event has none, or
one that float32 has no room for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from longrec.core.errors import UsageError
from longrec.core.format import listed

TYPE = "type"
"""The column that says of which kind an event is; it is always text."""
LARGEST = 1e38
"""Numbers beyond are read as missing: float32 ends at 3.4e38."""


@dataclass(frozen=True)
class Column:
    """What a further column of events holds.

    Attributes
    ----------
    words : of text, that of code i at place i; None: the column holds numbers.
    """

    words: tuple[str, ...] | None = None

    @property
    def is_text(self) -> bool:
        """Whether it holds text."""
        return self.words is not None

    @property
    def missing(self) -> int | float:
        """What a model reads where an event has no value."""
        return 0.0 if self.words is None else -1

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type that models read."""
        return np.dtype(np.float32 if self.words is None else np.int64)

    @cached_property
    def codes(self) -> dict[str, int]:
        """The code of each word."""
        return {word: code for code, word in enumerate(self.words or ())}

    def some(self, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
        """Values that events may have, as models read them: drawn words, or numbers, or none."""
        if self.words is None:
            return random.normal(0, 3, shape).astype(self.dtype)
        return random.integers(-1, len(self.words), shape, self.dtype.type)

    def read(self, stored: np.ndarray) -> np.ndarray:
        """Values as histories store them -> as models read them, of the same shape."""
        if self.words is not None:
            return stored.astype(np.int64)
        with np.errstate(over="ignore"):
            values = stored.astype(np.float32)
        values[~(np.abs(values) <= LARGEST)] = 0  # also what is not a number
        return values

    def value(self, given: Any) -> int | float:
        """A value as a caller gives it (text, number, bool or None) -> as models read it.

        Raises
        ------
        UsageError
            When it is text and the column holds numbers.
        """
        if self.words is not None:
            return -1 if given is None else self.codes.get(_spelt(given), -1)
        if isinstance(given, str):
            raise UsageError(f"{given!r} is text, and this model reads numbers there")
        if given is None or not abs(given) <= LARGEST:
            return 0.0
        return float(given)

    def recode(self, codes: np.ndarray, words: Sequence[str]) -> np.ndarray:
        """Codes of this column's words -> codes of other words, -1 for those that they lack."""
        known = {word: code for code, word in enumerate(words)}
        others = [known.get(word, -1) for word in self.words or ()]
        recoded: np.ndarray = np.array([*others, -1], np.int32)[codes]  # -1 is the last place
        return recoded

    def extended(self, other: Column) -> Column:
        """This column with the words of `other` that it lacks behind its own."""
        if self.words is None or other.words is None:
            return self
        return Column((*self.words, *(word for word in other.words if word not in self.codes)))


Columns = Mapping[str, Column]
"""Columns by name."""


def check_columns(
    name: str, read: Iterable[str], found: Columns, where: object, trained: Columns | None = None
) -> None:
    """Check that a model gets the columns that it reads.

    Parameters
    ----------
    name : of the model.
    read : names of the columns that it reads.
    found : columns that there are.
    where : of what.
    trained : those that it was trained on, or None where it is yet to be trained.

    Raises
    ------
    UsageError
        When one is missing, types are numbers, or one is text here and numbers there.
    """
    for column in read:
        how = "--type COLUMN" if column == TYPE else f"--keep {column}"
        if column not in found:
            there = listed(map(repr, found))
            raise UsageError(
                f"{name} reads the column {column!r} of each event, and {where} has no such column "
                f"(there are: {there}): prepare the log again with {how}"
            )
        if column == TYPE and not found[column].is_text:
            raise UsageError(
                f"{name} reads the types of events, and {where} has numbers in the column "
                f"{TYPE!r}: prepare the log again with {how}, which keeps types as words"
            )
        if trained is not None and trained[column].is_text != found[column].is_text:
            kinds = ("text", "numbers") if found[column].is_text else ("numbers", "text")
            raise UsageError(
                f"{name} reads the column {column!r} of each event, and {where} has {kinds[0]} in "
                f"it where training had {kinds[1]}: prepare the log again with the column converted"
            )


def _spelt(given: Any) -> str:
    """A value as a word: 3, 3.0 and "3" are one."""
    if isinstance(given, str):
        return given
    if isinstance(given, bool):
        return "true" if given else "false"
    if isinstance(given, float) and math.isfinite(given) and given.is_integer():
        return str(int(given))
    return str(given)
