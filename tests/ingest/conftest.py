"""What tests of consumers share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from serving.small_streams import small_stream

from longrec.serving.stream.stream import Stream


@pytest.fixture
def stream(tmp_path: Path) -> Iterator[Stream]:
    with small_stream("last-item", tmp_path / "users") as stream:
        yield stream
