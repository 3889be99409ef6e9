"""The version of longrec: of the source that runs, or else of the package that is installed."""

from __future__ import annotations

import tomllib
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path


@cache
def version() -> str:
    """The version: "0.2.0", of a checkout as its pyproject.toml has it; "unknown" of a bare copy.

    The checkout comes first: another longrec may be installed beside it.
    """
    with suppress(OSError, KeyError, tomllib.TOMLDecodeError):
        text = (Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8")
        project = tomllib.loads(text)["project"]
        if project["name"] == "longrec":
            return str(project["version"])
    with suppress(PackageNotFoundError):
        return installed("longrec")
    return "unknown"
