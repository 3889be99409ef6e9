"""Where stores are while serving is measured; nothing of them is left when that has ended."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit
from uuid import uuid4

from longrec.core.errors import LongrecError, UsageError
from longrec.core.machine import file_system

IN_MEMORY = {"tmpfs", "ramfs"}
"""File systems on which a sync costs nothing and keeps nothing."""


class Workspace:
    """A temporary folder for stores, or keys of its own in a Redis.

    Parameters
    ----------
    parent : the folder to make the temporary one in.
    store : None; a folder of LMDB's to use, new or empty; or a Redis, whatever else is in it.

    Attributes
    ----------
    folder : the temporary one.
    on_disk : whether stores are files here.

    Raises
    ------
    UsageError
        When there is no such folder, the store's is not empty, or the URL is none.
    """

    folder: Path

    def __init__(self, parent: str | Path, store: str | None = None) -> None:
        self._parent, self._own_parent, self._redis = Path(parent), False, ""
        self.on_disk = store is None or not store.startswith(("redis://", "rediss://"))
        self._description = "lmdb"
        if store is None:
            return
        if not self.on_disk:
            self._redis = store
            return
        if "://" in store and not store.startswith("lmdb:"):
            raise UsageError(
                f"a store at {store.partition('://')[0]}:// is not measured here: name "
                "redis://host:6379/0, or a new folder for LMDB"
            )
        self._parent = Path(store.removeprefix("lmdb:").removeprefix("//"))
        self._own_parent = True

    def __enter__(self) -> Workspace:
        parent = self._parent
        if self._redis:
            self._choose_prefix()
        elif self._own_parent:
            if parent.exists() and not (parent.is_dir() and not any(parent.iterdir())):
                raise UsageError(
                    f"{parent} is not empty: name a new folder for the store, which is removed "
                    "again afterwards, or leave --store out"
                )
            if parent.parent.is_dir():
                parent.mkdir(exist_ok=True)
        if not parent.is_dir():
            raise UsageError(f"{parent}: there is no such folder to measure in")
        try:
            self.folder = Path(tempfile.mkdtemp(prefix="longrec-bench-", dir=parent))
        except OSError as error:
            raise LongrecError(f"{parent} cannot be written to: {error}") from error
        return self

    def __exit__(self, *raised: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._own_parent:
            with suppress(OSError):
                self._parent.rmdir()
        if self._redis:
            # What was raised before says more.
            with suppress(*([LongrecError] if raised[0] else [])):
                self._delete_keys()

    def url(self, name: str) -> str:
        """The URL of the store of a name."""
        if not self._redis:
            return str(self.folder / name)
        parts = urlsplit(self._redis)
        query = [pair for pair in parse_qsl(parts.query) if pair[0] != "prefix"]
        query.append(("prefix", f"{self._prefix}{name}:"))
        return urlunsplit(parts._replace(query=urlencode(query)))

    def describe(self) -> dict[str, Any]:
        """Which store it is and, where it is a file, on which file system."""
        kind = file_system(self.folder) if self.on_disk else None
        return {"store": self._description, "file_system": kind, "in_memory": kind in IN_MEMORY}

    def _choose_prefix(self) -> None:
        """Take a prefix that no keys have; the server is asked when the first store is opened."""
        from longrec.serving.stores.redis_client import RedisAddress

        address = RedisAddress.parse(self._redis)
        self._description = address.public_url
        self._prefix = f"{address.prefix.decode()}bench-{uuid4().hex[:12]}:"

    def _delete_keys(self) -> None:
        from longrec.serving.stores.redis_client import RedisAddress, RedisClient

        client = RedisClient(RedisAddress.parse(self._redis), lambda connection: None)
        try:
            for keys in client.keys(self._prefix.encode()):
                client.command("UNLINK", *keys)
        finally:
            client.close()
