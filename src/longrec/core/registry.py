"""Classes under names, ours and those of other packages, and how those packages are found.

A package of a user's own registers its models and mixers when it is imported. It is imported

- where it is installed with an entry point of the group `longrec.models` that names its module,
  at the first question that our own names do not answer;
- by `load_plugin`, which is what `--plugin MODULE` calls.

A package that cannot be imported spoils nothing else: `BROKEN` says why, and so does the error of
whoever asks for a name that is not there.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
import traceback
from collections import UserDict
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Any, TypeVar

from longrec.core.errors import LongrecError, UsageError, first_line

GROUP = "longrec.models"
"""Group of entry points: each names a module that registers models, mixers or scores."""
BROKEN: dict[str, str] = {}
"""Installed packages whose module could not be imported, and why."""

T = TypeVar("T", bound=type[Any])


class Registry(UserDict[str, T]):
    """Classes by name; installed packages are imported once a question needs them.

    Parameters
    ----------
    kind : what the classes are, in messages: "model", "mixer".

    Attributes
    ----------
    sources : by name the module whose import registers it: what `--plugin` takes.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.sources: dict[str, str] = {}

    def add(self, name: str, cls: T) -> None:
        """Put a class under a name.

        Raises
        ------
        ValueError
            When the name is taken; a class may replace itself where its code has run again (a
            cell of a notebook, a module that is reloaded).
        """
        if name in self.data and not _is_rerun(self.data[name], cls):
            owner = "longrec" if self.is_own(name) else f"the module {self.sources[name]}"
            raise ValueError(
                f"a {self.kind} named {name!r} is registered already, by {owner}: choose another "
                "name"
            )
        self.data[name] = cls
        foreign = _LOADING and not cls.__module__.startswith("longrec.")
        self.sources[name] = _LOADING[-1] if foreign else cls.__module__

    def is_own(self, name: str) -> bool:
        """Whether longrec itself has registered the name."""
        return self.sources[name].startswith("longrec.")

    def plugin(self, name: str) -> str | None:
        """The module to pass by --plugin where another process asks for a name; None of ours."""
        return None if name not in self or self.is_own(name) else self.sources[name]

    def plugins(self) -> list[str]:
        """Modules that another process has to import for all names: those of `plugin`."""
        foreign = {self.sources[name] for name in self.data if not self.is_own(name)}
        return sorted(foreign - {"__main__"})

    def of_module(self, module: str) -> list[str]:
        """Names that the import of a module has registered."""
        return [name for name, source in self.sources.items() if source == module]

    def __contains__(self, name: object) -> bool:
        if name not in self.data:
            load_installed()
        return name in self.data

    def __missing__(self, name: str) -> T:
        load_installed()
        if name in self.data:
            return self.data[name]
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        load_installed()
        return iter(self.data)

    def __len__(self) -> int:
        load_installed()
        return len(self.data)


_LOADING: list[str] = []
_LOCK = threading.RLock()
_installed_loaded = False


def load_installed() -> None:
    """Import the modules that installed packages name in entry points; once in a process."""
    global _installed_loaded
    with _LOCK:
        if _installed_loaded:
            return
        _installed_loaded = True
        for point in entry_points(group=GROUP):
            package = point.name if point.dist is None else point.dist.name
            try:
                with _registering(point.module):
                    point.load()
            except (Exception, SystemExit) as error:
                BROKEN[package] = f"{point.module}: {_cause(error)}"


def load_plugin(module: str) -> None:
    """Import a module that registers models, mixers or scores, as `python -m` would find it.

    Raises
    ------
    UsageError
        When there is no such module.
    LongrecError
        When its import fails, or a name that it registers is taken.
    """
    if module.endswith(".py") or "/" in module or os.sep in module:
        plain = module.removesuffix(".py").replace(os.sep, "/").strip("./").replace("/", ".")
        raise UsageError(f"plugin {module!r} is a file: name its module, perhaps {plain}")
    here = os.getcwd()
    if not sys.flags.safe_path and "" not in sys.path and here not in sys.path:
        sys.path.insert(0, here)
    try:
        with _LOCK, _registering(module):
            importlib.import_module(module)
    except (Exception, SystemExit) as error:
        absent = error.name if isinstance(error, ModuleNotFoundError) else None
        if absent is not None and f"{module}.".startswith(f"{absent}."):
            raise UsageError(
                f"there is no module {absent!r} for plugin {module!r}: name it as `python -m` "
                "would, from the folder that holds it, or install its package"
            ) from None
        raise LongrecError(f"plugin {module!r} could not be loaded: {_cause(error)}") from error


def broken_packages() -> list[str]:
    """A sentence for each installed package that could not be imported."""
    return [f"The package {name!r} could not be loaded: {why}." for name, why in BROKEN.items()]


def missing_from(module: str | None) -> str:
    """What to tell where a name is missing: the module that has it, and what could not be loaded.

    Parameters
    ----------
    module : the module that registered the name elsewhere, where that is known.
    """
    words = ""
    if module == "__main__":
        words = (
            " It was defined in the program that trained it: define it in a module of its own, and "
            "pass that by --plugin (Python: import it)."
        )
    elif module is not None:
        words = f" The module {module!r} registers it: pass --plugin {module} (Python: import it)."
    return "".join([words, *(f" {problem}" for problem in broken_packages())])


@contextmanager
def _registering(module: str) -> Iterator[None]:
    """What is registered meanwhile comes from a module."""
    _LOADING.append(module)
    try:
        yield
    finally:
        _LOADING.pop()


def _is_rerun(old: type[Any], new: type[Any]) -> bool:
    """Whether two classes are made by the same code, which has run again."""
    same = (old.__module__, old.__qualname__) == (new.__module__, new.__qualname__)
    return same and old is not new


def _cause(error: BaseException) -> str:
    """The error's class and first line, and the line of code that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    place = [f for f in frames if not f.filename.startswith(("<frozen", importlib.__file__))]
    own = [f for f in place if f"{os.sep}longrec{os.sep}" not in f.filename]
    last = (own or place or frames)[-1]
    where = f" ({os.path.basename(last.filename)}, line {last.lineno})"
    if isinstance(error, SyntaxError):
        where = ""  # its message has it
    return f"{type(error).__name__}: {first_line(error)}{where}"
