"""Where serving is measured: a folder or a Redis for stores, one core, and a disk's bare syncs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit
from uuid import uuid4

import psutil
import torch

from longrec.core.errors import LongrecError, UsageError
from longrec.core.files import is_free
from longrec.core.machine import file_system
from longrec.core.threads import usable_cores
from longrec_bench.measurement import Measurement

IN_MEMORY = {"tmpfs", "ramfs"}
"""File systems on which a sync costs nothing and keeps nothing."""
BLOCK = 32 * 1024
"""Bytes written before each sync that is timed: about a record and an event."""


class Workspace(NamedTuple):
    """Where stores are.

    Attributes
    ----------
    folder : a temporary one.
    url : gives the URL of the store of a name: a folder in it, or a Redis's with a prefix.
    on_disk : whether stores are in the folder.
    store : which kind of store it is, or the Redis without its password.
    """

    folder: Path
    url: Callable[[str], str]
    on_disk: bool
    store: str

    def describe(self) -> dict[str, Any]:
        """Which store it is and, where it is a file, on which file system."""
        kind = file_system(self.folder) if self.on_disk else None
        return {"store": self.store, "file_system": kind, "in_memory": kind in IN_MEMORY}


@contextmanager
def make_workspace(parent: Path, store: str | None = None) -> Iterator[Workspace]:
    """A temporary folder, and keys of its own in a Redis if wished; nothing of them is left.

    Parameters
    ----------
    parent : the folder to make the temporary one in.
    store : None; the URL of a Redis, whatever else is in it; or a folder for LMDB to make the
        temporary one in instead, new or empty, which is removed again.

    Raises
    ------
    UsageError
        When there is no such folder, the store's is not empty, or the URL is none.
    """
    if store is not None and not store.startswith(("redis://", "rediss://")):
        with _store_folder(store) as parent, make_workspace(parent) as workspace:
            yield workspace
        return
    if not parent.is_dir():
        raise UsageError(f"{parent}: there is no such folder to measure in")
    try:
        temporary = tempfile.TemporaryDirectory(
            prefix="longrec-bench-", dir=parent, ignore_cleanup_errors=True
        )
    except OSError as error:
        raise LongrecError(f"{parent} cannot be written to: {error}") from error
    with temporary:
        folder = Path(temporary.name)
        if store is None:
            yield Workspace(folder, lambda name: str(folder / name), True, "lmdb")
        else:
            with _redis_keys(store) as (url, public_url):
                yield Workspace(folder, url, False, public_url)


@contextmanager
def _store_folder(store: str) -> Iterator[Path]:
    """A folder for LMDB that is new or empty, removed in the end."""
    scheme, separator, rest = store.partition("://")
    if separator and scheme != "lmdb":
        raise UsageError(
            f"a store at {scheme}:// is not measured here: name redis://host:6379/0, or a new "
            "folder for LMDB"
        )
    path = Path(rest if separator else store.removeprefix("lmdb:"))
    if not is_free(path):
        raise UsageError(
            f"{path} is not empty: name a new folder for the store, which is removed again "
            "afterwards, or leave --store out"
        )
    if path.parent.is_dir():
        path.mkdir(exist_ok=True)
    try:
        yield path
    finally:
        with suppress(OSError):
            path.rmdir()


@contextmanager
def _redis_keys(store: str) -> Iterator[tuple[Callable[[str], str], str]]:
    """Keys with a prefix that nobody else has, deleted in the end.

    -> what gives the URL of the store of a name, and the Redis's own without its password.
    """
    from longrec.serving.stores.redis_address import RedisAddress
    from longrec.serving.stores.redis_client import RedisClient

    address, parts = RedisAddress.parse(store), urlsplit(store)
    prefix = f"{address.prefix.decode()}bench-{uuid4().hex[:12]}:"
    options = [pair for pair in parse_qsl(parts.query) if pair[0] != "prefix"]

    def url(name: str) -> str:
        query = urlencode([*options, ("prefix", f"{prefix}{name}:")])
        return urlunsplit(parts._replace(query=query))

    error: BaseException | None = None
    try:
        yield url, address.public_url
    except BaseException as raised:
        error = raised
        raise
    finally:
        less_telling = [LongrecError] if error else []  # than what was raised before
        client = RedisClient(address, lambda connection: None)
        with suppress(*less_telling), closing(client):
            for keys in client.keys(prefix.encode()):
                client.command("UNLINK", *keys)


@contextmanager
def one_core() -> Iterator[int | None]:
    """Keep all threads of this process on one core, and torch on one thread, until the block ends.

    -> the core's number, or None where the system cannot do that.
    """
    threads, cores = torch.get_num_threads(), usable_cores()
    torch.set_num_threads(1)
    core = max(cores, default=None)
    try:
        _pin_threads(set() if core is None else {core})
        yield core
    finally:
        _pin_threads(cores)
        torch.set_num_threads(threads)


def _pin_threads(cores: set[int]) -> None:
    """Set the cores of all threads; those to come get them from the thread that starts them."""
    for thread in psutil.Process().threads() if cores else ():
        with suppress(OSError):  # it has ended
            os.sched_setaffinity(thread.id, cores)


class DiskSync(Measurement):
    """Syncs of a file of its own in a folder, without a store."""

    def __init__(self, folder: Path) -> None:
        super().__init__({})
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        self._block = os.urandom(BLOCK)
        self._sync = getattr(os, "fdatasync", os.fsync)

    def sample(self) -> None:
        with self.timed():
            self._file.seek(0)
            self._file.write(self._block)
            self._sync(self._file.fileno())

    def __enter__(self) -> DiskSync:
        return self

    def __exit__(self, *raised: object) -> None:
        self._file.close()
