"""Item vectors in Qdrant: a collection per model, and an alias that says which one is asked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ApiException

from longrec.core.errors import UsageError
from longrec.export.vector_store import EXAMPLES, LOOKED_AT, Items, VectorStoreError

SECONDS = 60
"""How long one request may take."""


class Qdrant:
    """See `VectorStore`; `collection` is the alias that is asked, `served` whether by a server:
    without one all items are looked at."""

    def __init__(self, client: QdrantClient, collection: str, name: str, served: bool) -> None:
        self.client, self.collection, self.name, self.served = client, collection, name, served

    def replace(self, items: Items, sent: Callable[[int], None]) -> None:
        new = f"{self.collection}.{items.model[:12]}"
        with self._told():
            old = self._collection()
            if old == new:  # the same model again: it answers until the copy is whole
                new += ".again"
            self.client.delete_collection(new)  # of a push that was cut short
            size = items.vectors.shape[1]
            wanted = models.VectorParams(size=size, distance=models.Distance.DOT)
            self.client.create_collection(new, vectors_config=wanted)
            for part in items.parts():
                rows = range(len(items.ids))[part]
                names, counts = items.ids[part].to_list(), items.counts[part].tolist()
                self.client.upsert(
                    new,
                    models.Batch(
                        ids=[row + 1 for row in rows],
                        vectors=items.vectors[part].tolist(),
                        payloads=[
                            {"item": name, "count": count, "model": items.model}
                            for name, count in zip(names, counts, strict=True)
                        ],
                    ),
                    wait=True,
                )
                sent(rows[-1] + 1)
            alias = models.CreateAlias(collection_name=new, alias_name=self.collection)
            changes: list[Any] = [models.CreateAliasOperation(create_alias=alias)]
            if old is not None:
                drop = models.DeleteAlias(alias_name=self.collection)
                changes.insert(0, models.DeleteAliasOperation(delete_alias=drop))
            self.client.update_collection_aliases(changes)
            if old is not None:
                self.client.delete_collection(old)

    def _collection(self) -> str | None:
        """What is asked now."""
        named = self.client.get_aliases().aliases
        for alias in named:
            if alias.alias_name == self.collection:
                return alias.collection_name
        if self.client.collection_exists(self.collection):
            raise UsageError(
                f"{self.collection!r} is a collection that no push made: choose another name, or "
                "delete it first"
            )
        return None

    def search(self, vector: np.ndarray, k: int) -> Sequence[tuple[Any, float]]:
        looked_at = models.SearchParams(hnsw_ef=max(LOOKED_AT, k)) if self.served else None
        with self._told():
            found = self.client.query_points(
                self.collection,
                query=vector.tolist(),
                limit=k,
                search_params=looked_at,
            )
        return [((point.payload or {})["item"], point.score) for point in found.points]

    def close(self) -> None:
        self.client.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Says in one line what the store refuses."""
        try:
            yield
        except (ApiException, OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise VectorStoreError(f"{self.name}: {reason}; see that Qdrant runs there") from error


def open_qdrant(url: str) -> Qdrant:
    """`qdrant://host:6333/COLLECTION`, or `qdrant:///folder/COLLECTION` without a server."""
    parts = urlsplit(url)
    folder, _, collection = parts.path.rpartition("/")
    if not collection or bool(parts.hostname) == bool(folder):
        raise UsageError(f"{url!r} names no collection: give {EXAMPLES}")
    if parts.password:
        raise UsageError("a key does not belong into a URL: set QDRANT_API_KEY")
    if not parts.hostname:
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            client = QdrantClient(path=folder)
        except (OSError, RuntimeError) as error:
            raise VectorStoreError(f"{folder} cannot be opened: {error}") from error
        return Qdrant(client, collection, url, served=False)
    client = QdrantClient(
        host=parts.hostname,
        port=parts.port or 6333,
        https=parts.scheme == "qdrants",
        api_key=os.environ.get("QDRANT_API_KEY"),
        timeout=SECONDS,
        check_compatibility=False,
    )
    return Qdrant(client, collection, url, served=True)
