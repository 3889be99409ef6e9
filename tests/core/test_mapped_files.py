"""Pages of mapped files leave this process, and what is read of them again is what stands there."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from longrec.core.memory import file_bytes, let_go_of_files

SIZE = 16 << 20


@pytest.mark.skipif(not file_bytes(), reason="this system does not tell what is mapped")
def test_pages_that_were_read_no_longer_count_and_come_back(tmp_path: Path):
    inside, beside = tmp_path / "store" / "a.mdb", tmp_path / "other.mdb"
    inside.parent.mkdir()
    mapped = {}
    for path in (inside, beside):
        path.write_bytes(os.urandom(4096) * (SIZE // 4096))
        with path.open("rb") as file:
            mapped[path] = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    before = file_bytes()
    texts = {path: bytes(found) for path, found in mapped.items()}
    assert file_bytes() - before >= 2 * SIZE * 0.9
    let_go_of_files(inside.parent)
    assert SIZE * 0.9 <= file_bytes() - before <= SIZE * 1.1
    assert bytes(mapped[inside]) == texts[inside]
    let_go_of_files(tmp_path / "nothing")
    for found in mapped.values():
        found.close()
