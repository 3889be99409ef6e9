"""The store that tests of backups and of checks begin with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from serving.maintenance.small_stores import EVENTS, fill, serve

from longrec.serving.stores.open import open_store
from longrec.serving.stores.protocol import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Three users; the log of the first is one of several pages where these are small."""
    opened = open_store(str(tmp_path / "store"))
    serve(opened)
    fill(opened, {b"a": EVENTS, b"b": EVENTS[:3], b"\xff\x00": EVENTS[3:9]})
    yield opened
    opened.close()
