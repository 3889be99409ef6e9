"""Values that callers give, checked: an error names the argument, the value and the mend.

numpy's numbers are told by the standard library's classes, where numpy registers them: the command
line's help imports this file, and no numpy.
"""

from __future__ import annotations

import os
import re
from numbers import Integral, Number, Real
from pathlib import Path
from typing import Any

from longrec.core.bounds import MOST
from longrec.core.errors import UsageError

SHOWN = 60
"""Characters of a value that an error shows."""


def described(value: object) -> str:
    """A value as an error shows it; its type alone where it may be long."""
    if isinstance(value, str | bytes):
        return repr(value if len(value) <= SHOWN else value[:SHOWN])
    if value is None or isinstance(value, Number):
        return repr(value)[:SHOWN]
    return f"of type {type(value).__name__}"


def check_count(name: str, value: Any, least: int = 1) -> int:
    """A whole number of at least so many, as an int."""
    if not isinstance(value, int | Integral) or isinstance(value, bool):
        raise UsageError(f"{name} is {described(value)}; it must be a whole number from {least}")
    if value < least:
        raise UsageError(f"{name} is {int(value)}; it must be at least {least}")
    return int(value)


def check_seconds(name: str, value: Any) -> None:
    """Seconds above 0, or None."""
    if value is None:
        return
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not 0 < value <= MOST:
        raise UsageError(f"{name} is {described(value)}; give seconds above 0, or None")


def check_path(name: str, value: Any, wanted: str = "the path of a folder") -> Path:
    """A path that is text or a Path, as a Path."""
    path = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(path, str):
        raise UsageError(f"{name} is {described(value)}; give {wanted}")
    if not is_utf8(path):
        raise UsageError(f"{name} is {path!r}, {NO_UTF8}: give it another name")
    if without_passwords(path) != path:
        raise UsageError(
            f"{name} has a name or a password in it (NAME:PASSWORD@): leave it out, and "
            f"give {wanted}"
        )
    return Path(path)


_LOGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:/{1,3})(?!user:password@)[^/\s:@]*:[^\s'\"]*@")


def without_passwords(text: str) -> str:
    """Text in which addresses, `scheme://NAME:PASSWORD@…`, have no names and no passwords."""
    return _LOGIN.sub(r"\1…@", text)


NO_UTF8 = "which is no text: its bytes are not UTF-8"


def is_utf8(text: str) -> bool:
    """Whether text can be written as UTF-8: Python keeps other bytes of names as surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_text(name: str, value: Any) -> None:
    """Text, or None."""
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{name} is {described(value)}; give text")


def check_flag(name: str, value: Any) -> None:
    """True or False, and nothing that Python takes for them: it takes "no" for True."""
    if not isinstance(value, bool):
        raise UsageError(f"{name} is {described(value)}; give True or False")


def check_names(name: str, value: Any) -> tuple[str, ...]:
    """Several names, or one alone as text; each once, in their order."""
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(one, str) for one in names):
        raise UsageError(f"{name} is {described(value)}; give a list of names")
    return tuple(dict.fromkeys(names))


def check_called(name: str, value: Any, when: str) -> None:
    """A function, or None."""
    if value is not None and not callable(value):
        raise UsageError(
            f"{name} is {described(value)}; give a function that is called as {when}, or None"
        )


def check_progress(progress: Any) -> None:
    """What is called as work goes on: a function, or None."""
    check_called("progress", progress, "work goes on")


def check_shown(progress: Any) -> None:
    """Whether a bar is shown: a bool, or None."""
    if progress is not None and not isinstance(progress, bool):
        also = " (a function of yours that is called after every epoch is on_epoch)"
        raise UsageError(
            f"progress is {described(progress)}; give True or False, whether to show a bar, or None"
            f"{also if callable(progress) else ''}"
        )
