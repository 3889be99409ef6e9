"""Names of other packages: found by entry points and by --plugin, and what is told where not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from forking import run_code

from longrec.core import registry
from longrec.core.errors import LongrecError, UsageError
from longrec.core.registry import Registry, load_plugin, missing_from

PLUGIN = """
from longrec.core.registry import Registry
from registry_here import THINGS

class Thing: ...

THINGS.add("{name}", Thing)
"""


@pytest.fixture
def things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[type]:
    """A registry of its own that modules in the current folder can add to."""
    made: Registry[type] = Registry("thing")
    module = type(sys)("registry_here")
    module.THINGS = made  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "registry_here", module)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    monkeypatch.setattr(registry, "_installed_loaded", False)
    monkeypatch.setattr(registry, "BROKEN", {})
    monkeypatch.chdir(tmp_path)
    return made


def install(folder: Path, package: str, module: str) -> None:
    """What pip leaves of a package that names a module in its entry points."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[longrec.models]\n{package} = {module}\n")
    sys.path.insert(0, str(folder))


def test_a_module_of_the_current_folder_is_a_plugin(things, tmp_path) -> None:
    (tmp_path / "things_here.py").write_text(PLUGIN.format(name="mine"))
    load_plugin("things_here")
    load_plugin("things_here")
    assert list(things) == ["mine"]
    assert things.plugin("mine") == "things_here"
    assert things.of_module("things_here") == ["mine"]
    assert things.plugin("other") is None


@pytest.mark.parametrize(
    ("module", "kind", "words"),
    [
        ("no_such", UsageError, "there is no module 'no_such'.*python -m"),
        ("no_such.part", UsageError, "there is no module 'no_such'"),
        ("models/mine.py", UsageError, "is a file: name its module, perhaps models.mine"),
        ("needs_more", LongrecError, r"ModuleNotFoundError: No module named 'not_there' \(needs_m"),
        ("ends", LongrecError, "'ends' could not be loaded: SystemExit: 3"),
        ("wrong", LongrecError, r"SyntaxError: .*\(wrong.py, line 1\)$"),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_told(things, tmp_path, module, kind, words) -> None:
    (tmp_path / "needs_more.py").write_text("import not_there")
    (tmp_path / "ends.py").write_text("raise SystemExit(3)")
    (tmp_path / "wrong.py").write_text("def (:")
    with pytest.raises(kind, match=words):
        load_plugin(module)


def test_a_taken_name_is_refused_with_its_owner(things, tmp_path) -> None:
    for module in ("first_here", "second_here"):
        (tmp_path / f"{module}.py").write_text(PLUGIN.format(name="same"))
    load_plugin("first_here")
    with pytest.raises(
        LongrecError,
        match=r"'second_here' could not.*a thing named 'same' is registered already, by the module "
        r"first_here: choose another name \(second_here.py, line 7\)",
    ):
        load_plugin("second_here")
    assert things.plugin("same") == "first_here"


def test_code_that_runs_again_replaces_its_own_class(things) -> None:
    def cell() -> type:
        class Mine: ...

        things.add("mine", Mine)
        return Mine

    cell()
    again = cell()
    assert things["mine"] is again
    with pytest.raises(ValueError, match="registered already"):
        things.add("mine", again)


def test_installed_packages_are_imported_when_a_name_is_not_known(things, tmp_path) -> None:
    (tmp_path / "installed_things.py").write_text(PLUGIN.format(name="theirs"))
    (tmp_path / "broken_things.py").write_text("import not_there")
    install(tmp_path, "good-package", "installed_things")
    install(tmp_path, "bad-package", "broken_things")
    things.add("known", Registry)
    assert "known" in things
    assert things["known"] is Registry
    assert "installed_things" not in sys.modules
    assert things["theirs"].__name__ == "Thing"
    assert things.plugin("theirs") == "installed_things"
    assert sorted(things) == ["known", "theirs"]
    assert len(things) == 2
    with pytest.raises(KeyError):
        things["nobody's"]
    assert registry.BROKEN.keys() == {"bad-package"}
    assert "'bad-package' could not be loaded: broken_things: ModuleNotFound" in missing_from(None)
    assert "pass --plugin elsewhere" in missing_from("elsewhere")


def test_ours_are_known_without_a_look_at_installed_packages() -> None:
    code = (
        "from longrec.models import MODELS; from longrec.core import registry as r;"
        "MODELS['elastic'], 'sasrec' in MODELS; assert not r._installed_loaded;"
        "assert MODELS.plugin('elastic') is None; 'x' in MODELS; assert r._installed_loaded"
    )
    assert run_code(code).wait(60) == 0
