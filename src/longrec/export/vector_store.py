"""Item vectors in a vector store that people already have: Qdrant, or Postgres with pgvector.

There an item is found by the largest inner product with a user's vector, which the service gives
(`POST /v1/vectors`). Two numbers of the vectors are for that alone: the item's bias where there is
one, users having a 1 there, and what gives all items one length
(`longrec.retrieval.equal_lengths`). A store needs to know nothing of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import polars as pl

from longrec.core.errors import LongrecError

BATCH = 2000
"""Items sent at once."""
LOOKED_AT = 200
"""Items that a search looks at, at least: by stores' own defaults, 40 to 100, it finds less."""
EXAMPLES = (
    "qdrant://host:6333/COLLECTION, qdrant:///folder/COLLECTION or "
    "postgresql://user@host/database?table=NAME"
)


class VectorStoreError(LongrecError):
    """A vector store is away, or refuses what is asked."""


class Items(NamedTuple):
    """What is pushed: ids (n,), events that each was trained on (n,), vectors (n, D) float32, and
    the digest of the model that made them, which its users' vectors have, too."""

    ids: pl.Series
    counts: np.ndarray
    vectors: np.ndarray
    model: str

    def parts(self) -> Iterator[slice]:
        """What is sent at once, in order."""
        for start in range(0, len(self.ids), BATCH):
            yield slice(start, start + BATCH)


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
