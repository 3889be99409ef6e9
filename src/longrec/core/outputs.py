"""Standard output that is written whole or fails, and standard error that never stops the work.

Another program may have made its end of a pipe non-blocking. Python then writes what fits at the
moment, and what does not is lost or a traceback. Here a write waits until all of it is gone; what
cannot be written, because the disk is full or the output is closed, is an error.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any, TextIO, cast

from longrec.core.errors import LongrecError

OUT, ERR = 1, 2


class WholeWrites(io.RawIOBase):
    """A descriptor that takes all of what is written to it.

    Parameters
    ----------
    descriptor : int
    forgiving : bool
        Whether what cannot be written is dropped: notes on standard error stop no work. Otherwise
        the first failure is raised, and what is written after it is dropped.
    """

    def __init__(self, descriptor: int, forgiving: bool) -> None:
        self._descriptor, self._forgiving = descriptor, forgiving
        self._failed = False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: memoryview | bytes) -> int:  # type: ignore[override]
        """Write all of it; -> how many bytes that are."""
        left = memoryview(data).cast("B")
        size = len(left)
        while left and not self._failed:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:
                self._wait()
            except OSError as error:
                self._failed = True
                if self._forgiving:
                    break
                if isinstance(error, BrokenPipeError):
                    raise  # whoever reads has seen enough, which is no error to tell
                raise LongrecError(
                    f"standard output could not be written: {error.strerror}"
                ) from error
        return size

    def _wait(self) -> None:
        """Until the reader has made room."""
        import select

        select.select([], [self._descriptor], [])


def write_whole() -> None:
    """Let this process's standard output and error be written as this file says.

    Those that a test or a notebook has put in their place stay.
    """
    for name, descriptor in (("stdout", OUT), ("stderr", ERR)):
        stream: TextIO | None = getattr(sys, name)
        if stream is None:
            _reserve(descriptor)
        elif _descriptor(stream) == descriptor:
            stream.flush()
        else:
            continue
        whole = io.TextIOWrapper(
            io.BufferedWriter(cast(Any, WholeWrites(descriptor, forgiving=descriptor == ERR))),
            encoding="utf-8" if stream is None else stream.encoding,
            errors="backslashreplace",  # a table's lines in an old encoding are no traceback
            line_buffering=descriptor == ERR or os.isatty(descriptor),
            write_through=bool(getattr(stream, "write_through", False)),
        )
        setattr(sys, name, whole)


def _descriptor(stream: TextIO) -> int | None:
    """The descriptor that a stream writes to; None of one in memory."""
    try:
        return stream.fileno()
    except (OSError, ValueError):  # io.UnsupportedOperation is both
        return None


def _reserve(descriptor: int) -> None:
    """Give a closed descriptor to nothing that can be written: no file of ours may get it."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    if nothing != descriptor:
        os.dup2(nothing, descriptor)
        os.close(nothing)
