"""Versions to install by: what was tested, and the lowest that pyproject.toml admits.

    python tools/constraints.py            # says what differs; exit status 1 if anything does
    python tools/constraints.py --write    # also writes both files anew

constraints.txt has exact versions of all that the dev environment needs, as this Python has them
installed: `make` installs by it, on every Python that pyproject.toml names. It must name all that
pyproject.toml needs, within its bounds. constraints-lowest.txt has each lower bound of
pyproject.toml as an exact version: `make CONSTRAINTS=constraints-lowest.txt` shows that the bounds
are true.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
TESTED, LOWEST = ROOT / "constraints.txt", ROOT / "constraints-lowest.txt"
TORCH = "2.13.0"
"""Where an index offers a build of PyTorch without CUDA, exactly this version resolves to it."""

APART = {"fla-core", "triton", "tensorboard", "mlflow"}
"""What `make` does not install: extras of a GPU and of loggers, whose tests are skipped without."""

TESTED_HEAD = f"""\
# Exact versions of all that `make` installs, as they were tested; see tools/constraints.py.
# torch=={TORCH} resolves to a build without CUDA where one is offered. For a GPU, install the
# build that pytorch.org names for your driver first, then `pip install .`.
"""
LOWEST_HEAD = """\
# The lower bounds of pyproject.toml as exact versions; see tools/constraints.py.
"""


def direct() -> list[Requirement]:
    """All requirements of pyproject.toml, those of extras too, but for the project's own name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    every = [Requirement(text) for texts in lists for text in texts]
    return [need for need in every if need.name != project["name"]]


def lowest() -> str:
    """The text of constraints-lowest.txt: of each requirement its ">=" as "==", by name."""
    lines = []
    for need in direct():
        bounds = [s.version for s in need.specifier if s.operator == ">="]
        if bounds:
            lines.append(f"{need.name}=={bounds[0]}" + (f"; {need.marker}" if need.marker else ""))
    return LOWEST_HEAD + "".join(f"{line}\n" for line in sorted(lines, key=str.lower))


def installed() -> dict[str, str]:
    """Names and versions of what the dev environment needs, as this Python has them installed."""
    found: dict[str, str] = {}
    waiting = [need for need in direct() if need.name not in APART]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        need = waiting.pop()
        name = canonicalize_name(need.name)
        if (name, frozenset(need.extras)) in seen:
            continue
        seen.add((name, frozenset(need.extras)))
        try:
            known = distribution(name)
        except PackageNotFoundError:
            raise SystemExit(f"{name} is not installed here: run make install first") from None
        found[name] = TORCH if name == "torch" else Version(known.version).public
        waiting += _needed_by(known.requires or (), need.extras)
    return found


def _needed_by(texts: list[str] | tuple[str, ...], extras: set[str]) -> Iterator[Requirement]:
    """Requirements that apply here, of a distribution asked for with these extras."""
    for text in texts:
        need = Requirement(text)
        marker, names = need.marker, ("", *extras)
        applies = marker is None or any(marker.evaluate({"extra": name}) for name in names)
        # What a build of torch for a GPU needs is that build's own affair.
        if applies and not re.match(r"nvidia-|cuda-|triton$", need.name):
            yield need


def tested(versions: dict[str, str]) -> str:
    """The text of constraints.txt."""
    return TESTED_HEAD + "".join(f"{name}=={versions[name]}\n" for name in sorted(versions))


def read(path: Path) -> dict[str, str]:
    """Names and versions of a constraints file."""
    needs = [
        Requirement(line)
        for line in path.read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    return {canonicalize_name(need.name): next(iter(need.specifier)).version for need in needs}


def faults() -> list[str]:
    """What is wrong with the two files as they stand, a line each."""
    found = []
    if not LOWEST.exists() or LOWEST.read_text(encoding="utf-8") != lowest():
        found.append(f"{LOWEST.name} differs from pyproject.toml's bounds")
    versions = read(TESTED)
    if versions.get("torch") != TORCH:
        found.append(f"{TESTED.name} must have torch=={TORCH}")
    for need in direct():
        version = versions.get(canonicalize_name(need.name))
        if version is None and need.name not in APART:
            found.append(f"{TESTED.name} has no {need.name}")
        elif version is not None and not need.specifier.contains(version):
            found.append(
                f"{TESTED.name} has {need.name} {version}, but it must be {need.specifier}"
            )
    return found


def main(argv: list[str] | None = None) -> int:
    """Say what is wrong; with --write, mend it first."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write both files anew")
    if parser.parse_args(argv).write:
        TESTED.write_text(tested(installed()), encoding="utf-8")
        LOWEST.write_text(lowest(), encoding="utf-8")
    found = faults()
    print("\n".join(found) or "both files hold")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
