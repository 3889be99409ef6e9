"""The house stands as it is drawn: imports go down only, and docs/architecture.md is up to date."""

from __future__ import annotations

import pkgutil
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import architecture  # noqa: E402


@pytest.fixture(scope="module")
def house() -> architecture.House:
    return architecture.read_house()


def test_no_import_goes_up_and_no_files_import_each_other_in_a_circle(house):
    assert architecture.problems(house) == []


def test_the_page_is_what_the_code_draws(house):
    drawn, page = architecture.draw(house), architecture.PAGE.read_text(encoding="utf-8")
    assert page == drawn, "draw it anew: python tools/architecture.py --write"


NAMED = re.compile(r"`(longrec(?:\.\w+)+)|`((?:\w+/)+\w+\.py)\b")
"""A name such as longrec.data.histories, or a path such as data/histories.py."""
PLACES = (ROOT, ROOT / "src" / "longrec", ROOT / "src", ROOT / "benchmarks", ROOT / "tests")


def exists(name: str) -> bool:
    """Whether longrec has a module, or a module of it something, of this name."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.name)
def test_what_the_documents_name_is_there(page: Path) -> None:
    for name, path in NAMED.findall(page.read_text(encoding="utf-8")):
        if path.startswith("my_longrec_model/"):
            continue  # which a reader of that page writes
        if name:
            assert exists(name), f"{page}: there is no {name}"
        else:
            assert any((place / path).is_file() for place in PLACES), f"{page}: there is no {path}"


def written(folder: Path, files: dict[str, str]) -> architecture.House:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return architecture.read_house(folder)


@pytest.mark.parametrize(
    "upward",
    [
        "from longrec.cli.main import app",
        "def later():\n    import longrec.cli.main\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from longrec.cli import main\n",
    ],
)
def test_an_import_that_goes_up_is_found_wherever_it_hides(tmp_path, upward):
    house = written(tmp_path, {"longrec/cli/main.py": "", "longrec/core/errors.py": upward})
    found = [line for line in architecture.problems(house) if "above" in line]
    assert found == ["longrec.core.errors imports longrec.cli.main, which stands above it"]


def test_a_circle_within_a_room_is_found(tmp_path):
    files = {
        "longrec/core/a.py": "from longrec.core import b",
        "longrec/core/b.py": "def f():\n    from longrec.core.c import x\n",
        "longrec/core/c.py": "import longrec.core.a",
        "longrec/core/d.py": "import longrec.core.a",
    }
    found = [p for p in architecture.problems(written(tmp_path, files)) if p.startswith("circle")]
    assert found == ["circle: longrec.core.a, longrec.core.b, longrec.core.c"]


def test_a_file_outside_the_rooms_is_found(tmp_path):
    house = written(tmp_path, {"longrec/attic/old.py": ""})
    assert architecture.problems(house) == ["longrec.attic.old stands in no room"]


def test_a_walk_whose_step_is_gone_or_not_called_is_found(house):
    walk = architecture.Walk("a walk", ("core/files.py:gone", "core/errors.py:UsageError"))
    assert architecture.broken_steps(house, walk) == ["a walk: there is no core/files.py:gone"]
    walk = architecture.Walk("a walk", ("core/errors.py:UsageError", "recommender.py:load"))
    assert architecture.broken_steps(house, walk) == [
        "a walk: core/errors.py:UsageError does not call load"
    ]
