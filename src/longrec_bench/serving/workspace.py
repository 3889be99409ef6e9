"""Where serving is measured: a folder or a Redis for stores, one core, and a disk's bare syncs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit
from uuid import uuid4

import psutil
import torch

from longrec.core.errors import LongrecError, UsageError
from longrec.core.machine import file_system, usable_cores
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
    redis : URL of a Redis whose keys begin with a prefix of this measurement's; None: stores are
        files in the folder.
    store : which kind of store it is, or the Redis without its password.
    """

    folder: Path
    redis: str | None = None
    store: str = "lmdb"

    def url(self, name: str) -> str:
        """The URL of the store of a name."""
        if self.redis is None:
            return str(self.folder / name)
        parts = urlsplit(self.redis)
        *query, (_, prefix) = parse_qsl(parts.query)
        query.append(("prefix", f"{prefix}{name}:"))
        return urlunsplit(parts._replace(query=urlencode(query)))

    def describe(self) -> dict[str, Any]:
        """Which store it is and, where it is a file, on which file system."""
        kind = file_system(self.folder) if self.redis is None else None
        return {"store": self.store, "file_system": kind, "in_memory": kind in IN_MEMORY}


@contextmanager
def make_workspace(parent: Path, store: str | None = None) -> Iterator[Workspace]:
    """A temporary folder, and keys of its own in a Redis if wished; nothing of them is left.

    Parameters
    ----------
    parent : the folder to make the temporary one in.
    store : None, or the URL of a Redis, whatever else is in it.

    Raises
    ------
    UsageError
        When there is no such folder, or the URL is none of a Redis.
    """
    if store is not None and not store.startswith(("redis://", "rediss://")):
        raise UsageError(
            f"a store at {store.partition('://')[0]} is not measured here: name "
            "redis://host:6379/0, or leave --store out and name a --folder for LMDB"
        )
    if not parent.is_dir():
        raise UsageError(f"{parent}: there is no such folder to measure in")
    with _redis_prefix(store) as (redis, description):
        try:
            folder = tempfile.TemporaryDirectory(
                prefix="longrec-bench-", dir=parent, ignore_cleanup_errors=True
            )
        except OSError as error:
            raise LongrecError(f"{parent} cannot be written to: {error}") from error
        with folder:
            yield Workspace(Path(folder.name), redis, description)


@contextmanager
def _redis_prefix(url: str | None) -> Iterator[tuple[str | None, str]]:
    """A Redis's URL with a prefix that no keys have, which are deleted in the end, and its name."""
    if url is None:
        yield None, "lmdb"
        return
    from longrec.serving.stores.redis_client import RedisAddress, RedisClient

    address, parts = RedisAddress.parse(url), urlsplit(url)
    prefix = f"{address.prefix.decode()}bench-{uuid4().hex[:12]}:"
    query = [pair for pair in parse_qsl(parts.query) if pair[0] != "prefix"]
    own = urlunsplit(parts._replace(query=urlencode([*query, ("prefix", prefix)])))

    def delete_keys() -> None:
        client = RedisClient(address, lambda connection: None)
        try:
            for keys in client.keys(prefix.encode()):
                client.command("UNLINK", *keys)
        finally:
            client.close()

    try:
        yield own, address.public_url
    except BaseException:
        with suppress(LongrecError):  # what was raised before says more
            delete_keys()
        raise
    delete_keys()


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
