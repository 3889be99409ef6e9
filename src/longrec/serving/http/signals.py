"""The signals of a server, heard from the first instant of its process to the last.

`hold` is the first thing that the command line does: the kernel keeps TERM, INT and HUP from then
on. Commands that do not serve call `release` once they know it; for a server a thread of its own
takes the signals, whatever the others are busy with. Nothing heavy is imported here.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn, Self

DRAIN = 30.0
"""Seconds from the signal that stops a server to the end of its process, at most."""
TWICE = 1.0
"""Seconds after which a signal is another one: a wrapper and its group may both get the first."""
SHOW_CURSOR = "\x1b[?25h"
CAN_HOLD = hasattr(signal, "pthread_sigmask")
"""Whether the system keeps signals; where it does not there is no server either."""

_held_since: set[int] | None = None


def _heard() -> set[signal.Signals]:
    return {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


def hold() -> None:
    """Let the kernel keep the signals until `release` or a `Signals` takes them."""
    global _held_since
    if CAN_HOLD and _held_since is None:
        _held_since = signal.pthread_sigmask(signal.SIG_BLOCK, _heard())


def release() -> None:
    """Let signals do what they do in any process, those that were kept too; where none are kept
    it is nothing."""
    global _held_since
    if _held_since is not None:
        before, _held_since = _held_since, None
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Signals:
    """What TERM, INT and HUP mean to a server; a context manager in the process's main thread.

    TERM and INT end the process with exit status 0: at once while it starts; when it has drained
    once it serves, DRAIN seconds later whatever still goes on, and at once if it is told twice.
    HUP is remembered while it starts.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = self._reload_wanted = False
        self._stopping = 0.0  # since when
        self._on_stop: Callable[[], object] | None = None
        self._on_reload: Callable[[], object] | None = None

    def __enter__(self) -> Self:
        hold()
        self._thread = threading.Thread(target=self._hear, name="signals", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        """End the process if it was told to stop; else signals are again what they were."""
        if self._stopping:
            end()
        self._closed = True
        signal.pthread_kill(self._thread.ident or 0, signal.SIGHUP)
        self._thread.join()
        while pending := signal.sigpending() & _heard():  # they were for a server
            signal.sigwait(pending)
        release()

    def call_to_stop(self, stop: Callable[[], object]) -> None:
        """From now on the running event loop calls `stop` when the process is told to end."""
        with self._lock:
            self._on_stop = _in_loop(stop)

    def call_to_reload(self, reload: Callable[[], object]) -> None:
        """From now on the running event loop calls `reload` at each HUP; if one came, at once."""
        with self._lock:
            self._on_reload = _in_loop(reload)
            if self._reload_wanted:
                self._on_reload()

    def _hear(self) -> None:
        while True:
            number = signal.sigwait(_heard())
            if self._closed:
                return
            with self._lock:
                if number == signal.SIGHUP:
                    self._reload_wanted = True
                    if self._on_reload is not None and not self._stopping:
                        self._on_reload()
                elif self._on_stop is None:
                    end()
                elif self._stopping:
                    if time.monotonic() > self._stopping + TWICE:
                        end("stopped: it was told to twice")
                else:
                    self._stopping = time.monotonic()
                    threading.Thread(target=_end_late, name="patience", daemon=True).start()
                    self._on_stop()


def _in_loop(call: Callable[[], object]) -> Callable[[], object]:
    """What lets the running event loop call something, from any thread."""
    from asyncio import get_running_loop

    loop = get_running_loop()

    def soon() -> None:
        with suppress(RuntimeError):  # the loop has ended, and so does the process
            loop.call_soon_threadsafe(call)

    return soon


def _end_late() -> NoReturn:
    time.sleep(DRAIN)
    end(f"stopped: some work was still going on after {DRAIN:g} s")


def end(event: str | None = None) -> NoReturn:
    """End the process at once, exit status 0.

    Python would end its threads one by one, which aborts it where one is in the midst of PyTorch,
    and an exception raised in the midst of an import can lock it for ever. Stores and files are
    whole at every instant.
    """

    def write() -> None:
        with suppress(OSError, ValueError):
            if event is not None:
                from longrec.serving.http import access_log

                access_log.log.warning(event)
            log = sys.modules.get("longrec.serving.http.access_log")
            flush = getattr(log, "flush", None)
            if flush is not None:  # it is loaded, to its end
                flush()
            if sys.stderr.isatty():
                sys.stderr.write(SHOW_CURSOR)  # which a progress bar hides
            sys.stdout.flush()
            sys.stderr.flush()

    writing = threading.Thread(target=write, daemon=True)  # nobody may read what we write
    writing.start()
    writing.join(1)
    os._exit(0)
