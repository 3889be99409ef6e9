"""The process of the command line: its signals, its exit status, and errors told in one line.

Exit status 0: done; 1: the work failed; 2: the call was wrong. Progress goes to standard error,
results to standard output.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from longrec.serving.http import signals

Tell = Callable[[str], object]


def main(tell: Tell | None = None) -> None:
    """Entry point: what a user can mend is told in one line, without a traceback.

    `tell` gets that line; None: it goes to standard error.
    """
    signals.hold()  # before anything is imported that takes long
    try:
        _run(tell)
    finally:
        signals.release()


def _run(tell: Tell | None) -> None:
    from longrec.core.outputs import write_whole

    write_whole()
    try:
        try:
            from longrec.cli.app import app

            with _warnings_in_one_line():
                app()
        finally:
            sys.stdout.flush()  # what cannot be written is told as everything else is
    except Exception as error:
        _end_with(error, tell)


def _end_with(error: Exception, tell: Tell | None) -> None:
    """Tell an error in one line and end; one that no user can mend is raised on."""
    from longrec.core.errors import LongrecError
    from longrec.core.files import disk_full
    from longrec.core.memory import out_of_memory

    if isinstance(error, BrokenPipeError):
        sys.exit(1)  # whoever read our output has stopped: nothing more to say
    if isinstance(error, LongrecError):
        _fail(str(error), error.exit_status, tell)
    if (full := disk_full(error)) is not None:
        _fail(f"{full}: free space on it", 1, tell)
    if isinstance(error, UnicodeEncodeError) and error.encoding == "utf-8":
        # bytes of standard input that Python keeps as surrogates
        _fail(
            f"{error.object[:60]!r} is no text: it was given in bytes that are not UTF-8", 2, tell
        )
    if (words := out_of_memory(error)) is not None:
        _fail(words, 1, tell)
    if isinstance(error, OSError):
        _fail(str(error) or type(error).__name__, 1, tell)
    raise error


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """What users are warned of is a line for them, without the place in our code."""
    with warnings.catch_warnings():
        plain = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if category is not UserWarning:
                plain(message, category, *where, **more)
                return
            from longrec.core.console import say

            say(f"warning: {message}")

        warnings.showwarning = show
        yield


def _fail(message: str, status: int, tell: Tell | None) -> NoReturn:
    from longrec.core.arguments import without_passwords
    from longrec.core.console import fail

    (tell or fail)(without_passwords(message))
    sys.exit(status)


if __name__ == "__main__":
    main()
