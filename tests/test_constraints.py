"""The files of versions that `make` installs by agree with pyproject.toml."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

import constraints


def test_both_files_agree_with_pyproject() -> None:
    assert constraints.faults() == [], "mend it: python tools/constraints.py --write"


def test_a_bound_that_moves_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (constraints.ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text(text.replace('"numpy>=2.0"', '"numpy>=99"'))
    monkeypatch.setattr(constraints, "ROOT", tmp_path)
    found = constraints.faults()
    assert len(found) == 2
    assert "constraints-lowest.txt" in found[0]
    assert "numpy" in found[1]
    assert ">=99" in found[1]
