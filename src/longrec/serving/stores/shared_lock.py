"""A lock that many threads hold together, or one thread alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class SharedLock:
    """`with lock:` holds it together with others, `with lock.exclusive():` alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._holders, self._exclusive = 0, False

    def __enter__(self) -> None:
        with self._changed:
            while self._exclusive:
                self._changed.wait()
            self._holders += 1

    def __exit__(self, *raised: object) -> None:
        with self._changed:
            self._holders -= 1
            if self._exclusive:
                self._changed.notify_all()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Wait until nobody else holds it, and let nobody else have it meanwhile."""
        with self._changed:
            while self._exclusive:
                self._changed.wait()
            self._exclusive = True
            while self._holders:
                self._changed.wait()
        try:
            yield
        finally:
            with self._changed:
                self._exclusive = False
                self._changed.notify_all()
