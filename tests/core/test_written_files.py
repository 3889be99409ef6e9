"""A file that is written takes the place of a file, and of nothing else."""

from __future__ import annotations

import os
import threading

import pytest

from longrec.core.files import write_file


def test_a_pipe_is_written_into_and_stays_one(tmp_path) -> None:
    """As are devices: /dev/stdout, /dev/null."""
    place, found = tmp_path / "pipe", list[bytes]()
    os.mkfifo(place)
    reader = threading.Thread(target=lambda: found.append(place.read_bytes()))
    reader.start()
    write_file(place, "text")
    reader.join(10)
    assert found == [b"text"]
    assert place.is_fifo()


def test_a_link_stays_one_and_a_file_keeps_its_mode(tmp_path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to("real")
    write_file(link, "new")
    assert (link.is_symlink(), real.read_text(), real.stat().st_mode & 0o777) == (
        True,
        "new",
        0o640,
    )


def test_a_folder_is_no_place_for_a_file(tmp_path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_file(tmp_path / "folder", "text")
    assert [one.name for one in tmp_path.iterdir()] == ["folder"]
