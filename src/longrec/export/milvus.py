"""Item vectors in Milvus: a collection per model, and an alias that says which one is asked."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # read on import; what it would tell is raised

from grpc import RpcError, StatusCode
from pymilvus import DataType, MilvusClient, MilvusException

from longrec.core.errors import UsageError, first_line
from longrec.export.vector_store import (
    ANSWERED,
    NOT_OURS,
    NOTHING,
    Items,
    VectorStoreError,
    copies_of,
    copy_of,
)
from longrec.export.vector_url import Place

SECONDS = 60
"""How long one request may take, and the client may ask again for while the server is away."""
READY = 3600
"""Seconds in which the index must stand, and the collection be in memory."""
PAUSE = 0.2
MARK = "_"
"""Stands between parts of collections' names, where Milvus takes letters, digits and this."""
GRAPH = {"index_type": "HNSW", "params": {"M": 32, "efConstruction": 200}}
LOOKED_AT = 400
"""Items that a search looks at, at least. With 16 neighbours and 200 looked at, Milvus's graph
found nothing of what 4 of 64 users of Globo.com wanted."""
NONE = {"index_type": "FLAT", "params": {}}
AWAY, ABSENT = 2, 100
"""Codes of Milvus's client: nobody answers, no such collection."""
RUNS = "see that Milvus runs there, and whether with TLS"

for _logger in ("pymilvus", "pymilvus.milvus_client", "milvus_lite"):
    logging.getLogger(_logger).setLevel(logging.CRITICAL)  # what they tell is raised, too


class Milvus:
    """See `VectorStore`; `collection` is the alias that is asked, `file` where there is no server:
    without one all items are looked at."""

    def __init__(self, client: MilvusClient, collection: str, name: str, file: str | None) -> None:
        self.client, self.collection, self.name, self.file = client, collection, name, file
        self._dim: int | None = None

    def replace(self, items: Items, sent: Callable[[int], None]) -> None:
        with told(self.name):
            old, left = self._copies()
            for name in left:
                self.client.drop_collection(name, timeout=SECONDS)
            new = copy_of(items.model, self.collection, MARK, old)
            self._create(new, items)
            for part in items.parts():
                rows = range(len(items.ids))[part]
                names, counts = items.ids[part].to_list(), items.counts[part].tolist()
                # Not `insert`: what is sent again since its answer was lost would be there twice.
                self.client.upsert(
                    new,
                    [
                        {
                            **{"index": row + 1, "item": item, "count": count},
                            **{"model": items.model, "vector": items.vectors[row]},
                        }
                        for row, item, count in zip(rows, names, counts, strict=True)
                    ],
                    timeout=SECONDS,
                )
                sent(rows[-1] + 1)
            self._index(new, len(items.ids))
            if old is None:
                self.client.create_alias(new, self.collection, timeout=SECONDS)
            else:
                self.client.alter_alias(new, self.collection, timeout=SECONDS)
                self.client.drop_collection(old, timeout=SECONDS)

    def _copies(self) -> tuple[str | None, list[str]]:
        """The collection that is asked now, and those of pushes that were cut short."""
        client, leads = self.client, dict[str, str]()
        if self.collection in client.list_aliases(timeout=SECONDS)["aliases"]:
            found = client.describe_alias(self.collection, timeout=SECONDS)
            leads[self.collection] = found["collection_name"]
        return copies_of(self.collection, MARK, client.list_collections(timeout=SECONDS), leads)

    def _create(self, name: str, items: Items) -> None:
        schema = self.client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("index", DataType.INT64, is_primary=True)
        if items.ids.dtype.is_integer():
            schema.add_field("item", DataType.INT64)
        else:
            schema.add_field("item", DataType.VARCHAR, max_length=65535)
        schema.add_field("count", DataType.INT64)
        schema.add_field("model", DataType.VARCHAR, max_length=64)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=items.vectors.shape[1])
        self.client.create_collection(name, schema=schema, timeout=SECONDS)

    def _index(self, name: str, n_items: int) -> None:
        """Return once all items of a collection are found by its index, in memory."""
        client = self.client
        client.flush(name, timeout=READY)
        params = client.prepare_index_params()
        params.add_index("vector", metric_type="IP", **(NONE if self.file else GRAPH))
        client.create_index(name, params, sync=False, timeout=SECONDS)
        self._wait(lambda: _stands(client.describe_index(name, "vector", timeout=SECONDS)))
        client.load_collection(name, _async=True, timeout=SECONDS)
        self._wait(lambda: client.get_load_state(name, timeout=SECONDS)["state"].name == "Loaded")
        every = {"filter": "", "output_fields": ["count(*)"], "consistency_level": "Strong"}
        found = client.query(name, timeout=SECONDS, **every)[0]["count(*)"]
        if found != n_items:
            raise VectorStoreError(
                f"{self.name}: {found:,} of {n_items:,} items are there; push again"
            )

    def _wait(self, ready: Callable[[], bool]) -> None:
        end = time.monotonic() + READY
        while not ready():
            if time.monotonic() > end:
                raise VectorStoreError(
                    f"{self.name}: no index after {READY / 60:.0f} minutes; see Milvus's index and "
                    "query nodes, and push again"
                )
            time.sleep(PAUSE)

    def search(self, vector: np.ndarray, k: int) -> Sequence[tuple[Any, float]]:
        with told(self.name):
            if len(vector) != self._dim:
                self._dim = self._size()
            if len(vector) != self._dim:
                raise VectorStoreError(
                    f"{self.name} has vectors of {self._dim} numbers, and this one has "
                    f"{len(vector)}: push the run that made it"
                )
            [found] = self.client.search(
                self.collection,
                data=[vector.astype(np.float32)],
                limit=k,
                anns_field="vector",
                output_fields=["item"],
                search_params={"metric_type": "IP", "params": {"ef": max(LOOKED_AT, k)}},
                timeout=SECONDS,
            )
        return [(hit["entity"]["item"], hit["distance"]) for hit in found]

    def _size(self) -> int:
        """How many numbers a vector has, of a collection as a push makes it."""
        about = self.client.describe_collection(self.collection, timeout=SECONDS)
        fields = {field["name"]: field for field in about["fields"]}
        if not {"item", "vector"} <= fields.keys():
            raise VectorStoreError(f"{self.name}: {NOT_OURS}")
        if self.file:  # where nothing stays in memory
            self.client.load_collection(self.collection, timeout=READY)
        return int(fields["vector"]["params"]["dim"])

    def close(self) -> None:
        self.client.close()
        if self.file:
            from milvus_lite.server_manager import server_manager_instance

            server_manager_instance.release_server(self.file)


@contextmanager
def told(name: str) -> Iterator[None]:
    """Says in one line what the store refuses."""
    try:
        yield
    except MilvusException as error:
        cause = error.__cause__
        if isinstance(cause, RpcError):  # it says more
            raise VectorStoreError(_words(name, cause)) from error
        mend = {AWAY: RUNS, ABSENT: NOTHING}.get(error.code, "see Milvus's log")
        reason = first_line(Exception(error.message or "it refuses"))
        raise VectorStoreError(f"{name}: {reason}; {mend}") from error
    except RpcError as error:
        raise VectorStoreError(_words(name, error)) from error


def _words(name: str, error: RpcError) -> str:
    mend = RUNS
    if error.code() == StatusCode.UNAUTHENTICATED:
        mend = "give a login, user:password, or a key in MILVUS_TOKEN"
    reason = " ".join((error.details() or error.code().name).rpartition("last error: ")[2].split())
    return f"{name}: {reason}; {mend}"


def _stands(index: dict[str, Any]) -> bool:
    """Whether an index stands."""
    if index["state"] == "Failed":
        raise MilvusException(
            message=f"no index could be made: {index.get('index_state_fail_reason')}"
        )
    return bool(index["state"] == "Finished")


def open_milvus(url: str) -> Milvus:
    """`milvus://host:19530/COLLECTION`, or `milvus:///folder/NAME.db/COLLECTION` without a server.

    `milvuss` is one with TLS; a server's database stands before the collection.
    """
    place = Place.parse(url, 19530, "MILVUS_TOKEN")
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]{0,199}", place.collection):
        raise UsageError(
            f"{place.collection!r} is no name for a collection of Milvus: letters, digits and '_'"
        )
    if place.host is None:
        import milvus_lite  # noqa: F401 - told by its name where it is missing

        if not place.folder.endswith(".db"):
            raise UsageError(f"{place.folder} must end in .db, as Milvus without a server wants it")
        try:
            Path(place.folder).mkdir(parents=True, exist_ok=True)
            client = MilvusClient(place.folder)
        except (OSError, MilvusException) as error:
            reason = error.message if isinstance(error, MilvusException) else first_line(error)
            raise VectorStoreError(
                f"{place.folder} cannot be opened ({reason}): see that no other process has it "
                "open, and that it may be written to"
            ) from error
        return Milvus(client, place.collection, url, file=place.folder)
    if "/" in place.folder.strip("/"):
        raise UsageError(f"{url!r} has more than a database and a collection after the host")
    host = f"[{place.host}]" if ":" in place.host else place.host
    with told(url):
        client = MilvusClient(
            f"{'https' if url.startswith('milvuss:') else 'http'}://{host}:{place.port}",
            token=os.environ.get("MILVUS_TOKEN", ""),
            db_name=place.folder.strip("/"),
            timeout=ANSWERED,
            dedicated=True,  # shared ones are known by address alone, with TLS or without
        )
    return Milvus(client, place.collection, url, file=None)
