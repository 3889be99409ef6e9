"""The one export of the fast suite: each takes ten seconds or more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from export.small_exports import small

from longrec.export.folder import export
from longrec.recommender import Recommender


@pytest.fixture(scope="session")
def hydrarec(tmp_path_factory: Any) -> tuple[Recommender, Path, dict[str, Any]]:
    """(recommender, folder, manifest) of a small one; no test changes it."""
    rec = small("hydrarec")
    folder = tmp_path_factory.mktemp("hydrarec") / "out"
    return rec, folder, export(rec, folder)
