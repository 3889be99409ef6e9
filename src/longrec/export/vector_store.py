"""Item vectors in a vector store that people already have: Qdrant, Milvus, or pgvector.

There an item is found by the largest inner product with a user's vector, which the service gives
(`POST /v1/vectors`). Two numbers of the vectors are for that alone: the item's bias where there is
one, users having a 1 there, and what gives all items one length
(`longrec.retrieval.equal_lengths`). A store needs to know nothing of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import polars as pl

from longrec.core.errors import LongrecError, UsageError

BATCH = 2000
"""Items sent at once."""
LOOKED_AT = 200
"""Items that a search looks at, at least: by stores' own defaults, 40 to 100, it finds less."""
ANSWERED = 5
"""Seconds in which a store must answer at first; later a request may take longer."""
NOTHING = "nothing is kept there: bring it with longrec push RUN URL"
NOT_OURS = "what is there, no push made: choose another name"


class VectorStoreError(LongrecError):
    """A vector store is away, or refuses what is asked."""


class Items(NamedTuple):
    """What is pushed.

    ids : (n,) as `plain` gives them;
    counts : (n,) events that each was trained on;
    vectors : (n, D) float32;
    model : the digest of the model that made them, which its users' vectors have, too.
    """

    ids: pl.Series
    counts: np.ndarray
    vectors: np.ndarray
    model: str

    def parts(self) -> Iterator[slice]:
        """What is sent at once, in order."""
        for start in range(0, len(self.ids), BATCH):
            yield slice(start, start + BATCH)


def plain(ids: pl.Series) -> pl.Series:
    """Ids as every store has them: whole numbers of 64 bits, or else text."""
    if ids.dtype.is_integer():
        numbers = ids.cast(pl.Int64, strict=False)
        if not numbers.null_count():
            return numbers
    return ids.cast(pl.String)


def copy_of(model: str, collection: str, mark: str, current: str | None) -> str:
    """The name of a new collection for a model's items; `mark` stands between parts of names.

    The same model's again has another name: the one there answers until the copy is whole.
    """
    new = f"{collection}{mark}{model[:12]}"
    return f"{new}{mark}again" if new == current else new


def copies_of(
    collection: str, mark: str, names: Sequence[str], aliases: Mapping[str, str]
) -> tuple[str | None, list[str]]:
    """Of a store with aliases, the collection that is asked now, and those of pushes cut short.

    Parameters
    ----------
    collection : str
        The alias that is asked.
    names, aliases
        The store's collections, and which of them each alias leads to.

    Raises
    ------
    UsageError
        When the name is that of something that no push made, which is never touched.
    """
    made = re.compile(f"{re.escape(collection + mark)}[0-9a-f]{{12}}({re.escape(mark)}again)?")
    current = aliases.get(collection)
    if collection in names or (current is not None and not made.fullmatch(current)):
        raise UsageError(
            f"{collection!r} is a collection that no push made"
            + (f", or leads to one, {current!r}" if current else "")
            + ": choose another name, or delete it first"
        )
    return current, [name for name in names if made.fullmatch(name) and name != current]


class VectorStore(Protocol):
    """Where item vectors are kept.

    Attributes
    ----------
    name : what the items are kept under, without a password.
    """

    name: str

    def replace(self, items: Items, sent: Callable[[int], None]) -> None:
        """Keep these items in place of what is there, which answers until all of them are in.

        `sent` is told how many are there by now.
        """

    def search(self, vector: np.ndarray, k: int) -> Sequence[tuple[Any, float]]:
        """The k items (id, score) of the largest inner products with a vector (D,), best first."""

    def close(self) -> None:
        """Let go of the connection."""
