"""Vector stores to push to, and what is looked at there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import numpy as np
import polars as pl
from needs import missing
from serving.redis_server import free_port

from longrec.export.push import open_vector_store
from longrec.export.vector_store import Items

VECTOR = np.random.default_rng(9).normal(size=8).astype(np.float32)


class Killed(BaseException):
    """A push that is cut short."""


def need(name: str) -> ModuleType:
    """A package; skipped, or failed where it must be there, without it."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        words = f"{error.name} is not installed (pip install 'longrec[test]')"
        missing(words, "LONGREC_REQUIRE_VECTORS")


@contextmanager
def postgres_server() -> Iterator[str]:
    """A real server, and a database in it; of root's it runs as another user, who must see it."""
    pgserver = need("pgserver")
    with TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        server = pgserver.get_server(folder)
        yield server.get_uri()
        server.cleanup()


class MilvusServer:
    """Milvus Lite behind its port, as a server of Milvus is asked; it has no login and no TLS."""

    def __init__(self, folder: Path) -> None:
        self._module = need("milvus_lite.adapter.grpc.server")
        self.folder, self.port = folder, free_port()
        self.start()

    def start(self) -> None:
        self._server, self._db, _ = self._module.start_server_in_thread(
            str(self.folder), port=self.port
        )

    def stop(self) -> None:
        self._server.stop(grace=0).wait()
        self._db.close()

    @property
    def url(self) -> str:
        return f"milvus://127.0.0.1:{self.port}/items"


def items_of(seed: int, n: int = 24, dim: int = 8, text: bool = False) -> Items:
    vectors = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    ids = pl.Series("id", np.arange(n) + 10 * seed)
    if text:
        ids = ids.cast(pl.String) + "'\"é"
    return Items(ids, np.arange(n), vectors, f"{seed:x}" * 64)


def keep(url: str, items: Items, sent: Callable[[int], None] = lambda sent: None) -> None:
    with closing(open_vector_store(url)) as store:
        store.replace(items, sent)


def die(sent: int) -> None:
    raise Killed


def found(url: str, vector: np.ndarray, k: int = 10) -> list[tuple[object, float]]:
    with closing(open_vector_store(url)) as store:
        return list(store.search(vector, k))


def ids_found(url: str) -> list[object]:
    return [item for item, _ in found(url, VECTOR)]


def exact(items: Items, k: int = 10) -> list[object]:
    return items.ids.gather(np.argsort(-(items.vectors @ VECTOR))[:k]).to_list()


def made(url: str) -> list[str]:
    """All collections or tables that are there."""
    with closing(open_vector_store(url)) as store:
        if hasattr(store, "connection"):
            wanted = f"SELECT tablename FROM pg_tables WHERE tablename LIKE '{store._asked}%'"
            return [name for (name,) in store.connection.execute(wanted).fetchall()]
        if url.startswith("qdrant"):
            return [each.name for each in store.client.get_collections().collections]
        return list(store.client.list_collections())


def make_another(url: str, name: str, alias: str | None = None) -> None:
    """A collection or table that no push makes, and an alias that leads to it."""
    with closing(open_vector_store(url)) as store:
        if hasattr(store, "connection"):
            store.connection.execute(f'CREATE TABLE "{name}" (a int)')
        elif url.startswith("qdrant"):
            from qdrant_client import models

            wanted = models.VectorParams(size=8, distance=models.Distance.DOT)
            store.client.create_collection(name, vectors_config=wanted)
            store.client.upsert(name, [models.PointStruct(id=1, vector=[1.0] * 8)])
            if alias:
                leads = models.CreateAlias(collection_name=name, alias_name=alias)
                change = models.CreateAliasOperation(create_alias=leads)
                store.client.update_collection_aliases([change])
        else:
            store.client.create_collection(name, dimension=8)
            if alias:
                store.client.create_alias(name, alias)
