"""A real server to measure: `longrec serve` in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from longrec.core.choices import Durability
from longrec.core.errors import LongrecError

START, STOP = 300.0, 40.0
"""Seconds that a server may take to start, and to stop."""
LOG_LINES = 5
"""Last lines of a server's log that are shown when it fails."""

_ADDRESS = re.compile(r"http://(127\.0\.0\.1):(\d+)  \(")


class Server:
    """`longrec serve` on a free port of this machine, stopped at the end of a `with`.

    Parameters
    ----------
    run : folder of its recommender.
    url, durability : of its store.
    log : a file for what it writes to standard error.
    cores : that it may use; empty: those of this process.

    Attributes
    ----------
    address : host and port, once it is ready.
    """

    address: tuple[str, int]

    def __init__(
        self, run: Path, url: str, durability: Durability, log: Path, cores: set[int]
    ) -> None:
        self._arguments = [
            *("serve", str(run), "--store", url),
            *("--port", "0", "--durability", durability, "--no-log-requests", "--rate", "1e9"),
        ]
        self._log, self._cores = log, cores

    def __enter__(self) -> Server:
        with self._log.open("wb") as log:
            self._process = self._start(log)
        if self._cores:  # a child begins on its parent's one core
            with suppress(OSError):  # it has ended, as `wait` will tell
                os.sched_setaffinity(self._process.pid, self._cores)
        return self

    def _start(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "longrec", *self._arguments]
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=log)

    def __exit__(self, *raised: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise

    def wait(self) -> None:
        """Until it is ready.

        Raises
        ------
        LongrecError
            When it ends before that, or takes too long.
        """
        deadline = time.monotonic() + START
        while (found := _ADDRESS.search(self._log_text())) is None:
            if self._process.poll() is not None:
                raise self.failed()
            if time.monotonic() > deadline:
                raise self.failed(TimeoutError(f"not ready after {START:g} seconds"))
            time.sleep(0.05)
        self.address = found[1], int(found[2])

    def failed(self, error: OSError | None = None) -> LongrecError:
        """What to raise when it does not answer: how it ended, and the end of its log."""
        try:  # a connection breaks a moment before the process has ended
            status: int | None = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            status = None
        how = f"ended with status {status}" if status is not None else f"failed: {error}"
        last = "\n".join(self._log_text().strip().splitlines()[-LOG_LINES:])
        return LongrecError(f"longrec serve {how}" + (f"; its log ends with\n{last}" * bool(last)))

    def _log_text(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")
