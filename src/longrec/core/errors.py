"""What goes wrong in ways that a user can mend: shown without a traceback.

Each message names the file or field, the value and the mend. `exit_status` is what the command
line returns: 2 when the call itself was wrong, 1 when the call was fine and the work failed.
"""

from __future__ import annotations

import sys


class LongrecError(Exception):
    """A failure explained to its user (exit status 1)."""

    exit_status = 1


class UsageError(LongrecError):
    """The call is wrong: an unknown option, model, key, column or id (exit status 2)."""

    exit_status = 2


class DataError(LongrecError):
    """A file or its content cannot be used: missing, damaged, of another version, out of range."""


def absent(what: str, error: ModuleNotFoundError, extra: str) -> UsageError:
    """The error for what needs a module that is not here.

    Parameters
    ----------
    what : what needs it, as the message begins.
    error : by which it is known.
    extra : of longrec, which installs it, if it is none of Python's own, as Windows lacks some.
    """
    if error.name in sys.stdlib_module_names:
        mend = f"Linux or macOS: Python has no {error.name} on this system"
    else:
        mend = f"the package {error.name}: pip install 'longrec[{extra}]'"
    return UsageError(f"{what} needs {mend}")


def our_fault(what: str) -> DataError:
    """The error for what cannot happen, which no user can mend."""
    return DataError(f"{what}. This is a fault of longrec's: please tell its developers.")


def first_line(error: BaseException) -> str:
    """The first line of a library's message, for use inside one of ours."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
