"""Where a measurement has its stores, and that nothing of them is left when it has ended."""

from __future__ import annotations

import re
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit
from uuid import uuid4

from longrec.core.errors import LongrecError, UsageError
from longrec.serving.stores.protocol import Durability
from longrec_bench.machine import IN_MEMORY, file_system

AT_ONCE = 1000
"""Keys deleted at once."""


class Place:
    """A temporary folder for stores, or keys of its own in a Redis.

    Parameters
    ----------
    folder : to make the temporary one in.
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

    def __init__(self, folder: str | Path, store: str | None = None) -> None:
        self._beside, self._store, self._url = Path(folder), None, ""
        self.on_disk = store is None or not store.startswith(("redis://", "rediss://"))
        self.shown = "lmdb"
        if store is None:
            return
        if self.on_disk:
            if "://" in store and not store.startswith("lmdb:"):
                raise UsageError(
                    f"a store at {store.partition('://')[0]}:// is not measured here: name "
                    "redis://host:6379/0, or a new folder for LMDB"
                )
            self._store = Path(store.removeprefix("lmdb:").removeprefix("//"))
            self._beside = self._store
        else:
            self._url = store

    def __enter__(self) -> Place:
        if self._url:
            self._choose_prefix()
        elif self._store is not None:
            if self._store.exists() and not _is_empty(self._store):
                raise UsageError(
                    f"{self._store} is not empty: name a new folder for the store, which is "
                    "removed again afterwards, or leave --store out"
                )
            if self._store.parent.is_dir():
                self._store.mkdir(exist_ok=True)
        if not self._beside.is_dir():
            raise UsageError(f"{self._beside}: there is no such folder to measure in")
        try:
            self.folder = Path(tempfile.mkdtemp(prefix="longrec-bench-", dir=self._beside))
        except OSError as error:
            raise LongrecError(f"{self._beside} cannot be written to: {error}") from error
        return self

    def __exit__(self, *raised: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._store is not None:
            with suppress(OSError):
                self._store.rmdir()
        if self._url:
            # What was raised before says more.
            with suppress(*([LongrecError] if raised[0] else [])):
                self._delete_keys()

    def url(self, name: str, durability: Durability) -> str:
        """The URL of the store of a model with a durability."""
        own = f"{name}-{durability}"
        if not self._url:
            return str(self.folder / own)
        parts = urlsplit(self._url)
        query = [pair for pair in parse_qsl(parts.query) if pair[0] != "prefix"]
        query.append(("prefix", f"{self._prefix}{own}:"))
        return urlunsplit(parts._replace(query=urlencode(query)))

    def describe(self) -> dict[str, Any]:
        """Which store it is and, where it is a file, on which file system."""
        kind = file_system(self.folder) if self.on_disk else None
        return {"store": self.shown, "file_system": kind, "in_memory": kind in IN_MEMORY}

    def _choose_prefix(self) -> None:
        """Take a prefix that no keys have; the server is asked when the first store is opened."""
        from longrec.serving.stores.redis_link import Address

        address = Address(self._url)
        self.shown = address.shown
        self._prefix = f"{address.prefix.decode()}bench-{uuid4().hex[:12]}:"

    def _delete_keys(self) -> None:
        from longrec.serving.stores.redis_link import Address, Link

        link = Link(Address(self._url), lambda connection: None)
        pattern, cursor = re.sub(r"([\\*?\[\]])", r"\\\1", self._prefix) + "*", b"0"
        try:
            while True:
                cursor, keys = link.ask("SCAN", cursor, "MATCH", pattern, "COUNT", AT_ONCE)
                if keys:
                    link.ask("UNLINK", *keys)
                if cursor == b"0":
                    return
        finally:
            link.close()


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())
