"""Stores in files of this machine: opened once per process, by one process that writes.

All stores of one path in a process share one `Opened`, with its lock on the path: so several
streams of a process may write to a store, and several processes may not. A process that was forked
opens its own.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from filelock import BaseFileLock

from longrec.core.errors import UsageError
from longrec.serving.stores.protocol import Durability
from longrec.serving.stores.rwlock import Gate

_opening = threading.Lock()
_opened: dict[str, Opened] = {}


class Opened(ABC):
    """What a process has open of a store: get it with `share`, give it back with `leave`.

    Attributes
    ----------
    scheme, engine : of the URL, and the name to show.
    stores : how many share it.
    """

    scheme: ClassVar[str]
    engine: ClassVar[str]

    def __init__(self, path: Path, durability: Durability, readonly: bool) -> None:
        self.path, self.durability, self.readonly = path, durability, readonly
        self.url, self.stores = f"{self.scheme}://{path}", 0
        self._pid = os.getpid()
        # Within the gate its files are open; who writes holds the other one.
        self._gate, self._writing = Gate(), threading.Lock()
        self._lock: BaseFileLock | None = None
        self._start()

    @abstractmethod
    def size(self) -> int:
        """Bytes of the files."""

    @abstractmethod
    def compact(self) -> tuple[int, int]:
        """Give back the room of what was deleted; -> bytes before and after."""

    @abstractmethod
    def _start(self) -> None:
        """Take the lock, unless it is only read, and open the files, or make them."""

    @abstractmethod
    def _stop(self) -> None:
        """Close what is open, and let go of the lock."""

    def join(self, durability: Durability, readonly: bool) -> None:
        """Let another store of this process use it."""
        self._check()
        if not readonly and self.readonly:
            with self._gate.shut():
                self._stop()
                before, self.readonly, self.durability = self.durability, False, durability
                try:
                    self._start()
                except BaseException:
                    self.readonly, self.durability = True, before
                    self._start()
                    raise
        elif not readonly and durability != self.durability:
            raise UsageError(
                f"{self.url} is open in this process with durability {self.durability!r}: close it "
                f"before opening it with {durability!r}"
            )

    def leave(self) -> None:
        """One store less; the last one closes it."""
        with _opening:
            self.stores -= 1
            if not self.stores and self._pid == os.getpid():
                del _opened[self.url]
                with self._writing, self._gate.shut():
                    self._stop()
                    self._pid = 0

    def release_lock(self) -> None:
        """Let another process write to it; processes forked from this one never share the lock."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _check(self) -> None:
        if not self._pid:
            raise UsageError(f"{self.url} was closed")
        if self._pid != os.getpid():
            raise UsageError(
                f"{self.url} was opened before this process was forked, which {self.engine} "
                "forbids: open stores after the fork, or start processes with 'spawn'"
            )


F = TypeVar("F", bound=Opened)


def share(kind: type[F], path: str, durability: Durability, readonly: bool) -> F:
    """What this process has open at a path, opened if it has not."""
    real = Path(os.path.realpath(path))
    url = f"{kind.scheme}://{real}"
    with _opening:
        opened = _opened.get(url)
        if isinstance(opened, kind):
            opened.join(durability, readonly)
        else:
            opened = _opened[url] = kind(real, durability, readonly)
        opened.stores += 1
        return opened


class OpenedStore(Generic[F]):
    """What stores in files have in common: they use an `Opened` until they are closed."""

    def __init__(self, opened: F, durability: Durability, readonly: bool) -> None:
        self._opened, self._durability, self._readonly = opened, durability, readonly
        self._closed = False

    @property
    def url(self) -> str:
        return self._opened.url

    @property
    def durability(self) -> Durability:
        return self._durability

    def compact(self) -> tuple[int, int]:
        """Write the store anew without what was deleted; writers wait meanwhile, readers do not.

        It needs room for a copy; afterwards nothing is left in its files of what was deleted.
        """
        self._may_write()
        return self._opened.compact()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._opened.leave()

    def _may_read(self) -> None:
        if self._closed:
            raise UsageError(f"{self.url} was closed")

    def _may_write(self) -> None:
        self._may_read()
        if self._readonly:
            raise UsageError(
                f"{self.url} was opened readonly: open it with readonly=False to write to it"
            )


def _after_fork() -> None:
    """In a child nobody holds what another thread of the parent held when it was forked."""
    global _opening
    _opening = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
