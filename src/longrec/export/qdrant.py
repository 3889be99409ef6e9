"""Item vectors in Qdrant: a collection per model, and an alias that says which one is asked."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ApiException, UnexpectedResponse

from longrec.core.errors import UsageError, first_line
from longrec.export.vector_store import (
    ANSWERED,
    LOOKED_AT,
    NOT_OURS,
    NOTHING,
    Items,
    VectorStoreError,
    copies_of,
    copy_of,
)
from longrec.export.vector_url import Place

SECONDS = 60
"""How long one request may take."""
MARK = "."
"""Stands between parts of collections' names."""
KEY = "give a key that may do it in QDRANT_API_KEY"
MENDS = {401: KEY, 403: KEY, 404: NOTHING}
"""What to do about answers of a server."""


class Qdrant:
    """See `VectorStore`; `collection` is the alias that is asked, `served` whether by a server:
    without one all items are looked at."""

    def __init__(self, client: QdrantClient, collection: str, name: str, served: bool) -> None:
        self.client, self.collection, self.name, self.served = client, collection, name, served

    def replace(self, items: Items, sent: Callable[[int], None]) -> None:
        with told(self.name):
            old, left = self._copies()
            for name in left:
                self.client.delete_collection(name)
            new = copy_of(items.model, self.collection, MARK, old)
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

    def _copies(self) -> tuple[str | None, list[str]]:
        """The collection that is asked now, and those of pushes that were cut short."""
        names = [each.name for each in self.client.get_collections().collections]
        aliases = self.client.get_aliases().aliases
        leads = {alias.alias_name: alias.collection_name for alias in aliases}
        return copies_of(self.collection, MARK, names, leads)

    def search(self, vector: np.ndarray, k: int) -> Sequence[tuple[Any, float]]:
        looked_at = models.SearchParams(hnsw_ef=max(LOOKED_AT, k)) if self.served else None
        with told(self.name):
            found = self.client.query_points(
                self.collection,
                query=vector.tolist(),
                limit=k,
                search_params=looked_at,
            )
        items = [(point.payload or {}).get("item") for point in found.points]
        if None in items:
            raise VectorStoreError(f"{self.name}: {NOT_OURS}")
        return [(item, point.score) for item, point in zip(items, found.points, strict=True)]

    def close(self) -> None:
        self.client.close()


@contextmanager
def told(name: str) -> Iterator[None]:
    """Says in one line what the store refuses."""
    try:
        yield
    except (ApiException, OSError, ValueError) as error:
        reason, mend = first_line(error), "see that Qdrant runs there, and whether with TLS"
        if isinstance(error, UnexpectedResponse):
            reason, mend = _refused(error, mend)
        elif isinstance(error, ValueError):  # of a folder
            mend = NOTHING if "not found" in reason else "push the run that made these vectors"
        raise VectorStoreError(f"{name}: {reason}; {mend}") from error


def _refused(error: UnexpectedResponse, otherwise: str) -> tuple[str, str]:
    """What a server says, and what to do; `otherwise` where that is not Qdrant."""
    try:
        reason = str(error.structured()["status"]["error"])
    except (ValueError, LookupError, TypeError):
        status = error.status_code
        return f"{status} {error.reason_phrase}", KEY if status in (401, 403) else otherwise
    return reason, MENDS.get(error.status_code or 0, "see Qdrant's log")


def open_qdrant(url: str) -> Qdrant:
    """`qdrant://host:6333/COLLECTION`, or `qdrant:///folder/COLLECTION` without a server."""
    place = Place.parse(url, 6333, "QDRANT_API_KEY")
    if not re.fullmatch(r"\w[\w.@+ -]{0,199}", place.collection):
        raise UsageError(
            f"{place.collection[:200]!a} is no name for a collection of Qdrant here: letters, "
            "digits, and behind the first one also '_', '.', '@', '+', '-' and spaces"
        )
    if place.host is None:
        try:
            Path(place.folder).mkdir(parents=True, exist_ok=True)
            client = QdrantClient(path=place.folder)
        except (OSError, RuntimeError) as error:
            raise VectorStoreError(
                f"{place.folder} cannot be opened: {first_line(error)}"
            ) from error
        except Exception as error:  # it raises what its parts happen to raise
            raise VectorStoreError(
                f"{place.folder} cannot be opened ({type(error).__name__}: {first_line(error)}): "
                "it is damaged, or none of Qdrant's; remove it and push again, or name another "
                "folder"
            ) from error
        return Qdrant(client, place.collection, url, served=False)
    if place.folder:
        raise UsageError(f"{url!r} has more than a collection's name after the host")

    def client_of(seconds: int) -> QdrantClient:
        return QdrantClient(
            host=place.host,
            port=place.port,
            https=url.startswith("qdrants:"),
            api_key=os.environ.get("QDRANT_API_KEY"),
            timeout=seconds,
            check_compatibility=False,
        )

    with told(url), closing(client_of(ANSWERED)) as first:
        first.get_aliases()
    return Qdrant(client_of(SECONDS), place.collection, url, served=True)
