"""Histories on disk: mapped, whole or absent, and a damaged folder says what is wrong."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from forking import run_code

from longrec.core.errors import DataError, UsageError
from longrec.data.catalog import Catalog
from longrec.data.histories import (
    FILES,
    SCHEMA_VERSION,
    Histories,
    open_histories,
)
from longrec.data.write import write_histories


def write(path: Path, **changes) -> Histories:
    content = {
        "user_ids": pl.Series(["ann", "bob"]),
        "offsets": np.array([0, 3, 5]),
        "items": np.array([2, 1, 2, 3, 1]),
        "times": np.array([10, 20, 20, -5, 7]),
        "catalog": Catalog(pl.Series([11, 22, 33]), np.array([2, 2, 1])),
        "source": "log.csv",
        "time_unit": "s",
        "dropped": {"short_users": 4},
    }
    return write_histories(path, **(content | changes))


def test_round_trip(tmp_path: Path) -> None:
    weight = np.array([0.5, 1, 2, 3, 4], dtype=np.float32)
    written = write(tmp_path / "new" / "h", extra={"weight": weight}, labels={"type": ["view"]})
    opened = open_histories(str(written.path))
    for h in (written, opened):
        assert (h.n_users, h.n_items, h.n_events) == (2, 3, 5)
        assert h.items.dtype == np.int32
        assert h.items.tolist() == [2, 1, 2, 3, 1]
        assert h.times is not None
        assert h.times.dtype == h.offsets.dtype == np.int64
        assert h.times.tolist() == [10, 20, 20, -5, 7]
        assert h.lengths.tolist() == [3, 2]
        assert h.extra["weight"].tolist() == weight.tolist()
        assert h.user_ids.to_list() == ["ann", "bob"]
        assert h.find_users(["bob", "eve", "ann"]).tolist() == [1, -1, 0]
        assert h.catalog.find([33]).tolist() == [3]
        assert (h.meta.first_time, h.meta.last_time, h.meta.has_time) == (-5, 20, True)
        assert h.meta.dropped == {"short_users": 4}
        assert h.meta.labels == {"type": ["view"]}
        assert h.meta.schema_version == SCHEMA_VERSION
        h.verify()
    assert sorted(os.listdir(tmp_path / "new")) == ["h"]


def test_columns_are_mapped_not_copied_and_read_only(tmp_path: Path) -> None:
    h = write(tmp_path / "h")
    for column in (h.items, h.times, h.offsets):
        assert column is not None
        assert not column.flags.owndata
        with pytest.raises(ValueError, match="read-only"):
            column[0] = 1


def test_without_time(tmp_path: Path) -> None:
    h = write(tmp_path / "h", times=None, time_unit=None)
    assert h.times is None
    assert not h.meta.has_time
    assert h.meta.first_time is h.meta.time_unit is None
    h.verify()


def test_fingerprint_is_of_the_content_alone(tmp_path: Path) -> None:
    first = write(tmp_path / "a")
    assert write(tmp_path / "b", source="other.csv").fingerprint == first.fingerprint
    others = [
        {"items": np.array([1, 2, 2, 3, 1])},
        {"times": None},
        {"times": np.array([10, 20, 21, -5, 7])},
        {"user_ids": pl.Series(["ann", "bo"])},
        {"offsets": np.array([0, 2, 5])},
        {"catalog": Catalog(pl.Series([11, 22, 34]), np.array([2, 2, 1]))},
        {"extra": {"w": np.ones(5)}},
    ]
    found = {write(tmp_path / f"c{i}", **o).fingerprint for i, o in enumerate(others)}
    assert len(found | {first.fingerprint}) == len(others) + 1


def test_a_worker_process_maps_the_files_itself(tmp_path: Path) -> None:
    # This is what a loader does to hand histories to its workers; nothing is stored this way.
    again = pickle.loads(pickle.dumps(write(tmp_path / "h")))
    assert again.items.tolist() == [2, 1, 2, 3, 1]


def test_an_existing_folder_is_never_destroyed(tmp_path: Path) -> None:
    h = write(tmp_path / "h")
    with pytest.raises(UsageError, match="overwrite=True"):
        write(tmp_path / "h", items=np.array([1, 1, 1, 1, 1]))
    assert open_histories(tmp_path / "h").fingerprint == h.fingerprint
    new = write(tmp_path / "h", items=np.array([1, 1, 1, 1, 1]), overwrite=True)
    assert new.items.tolist() == [1] * 5
    assert h.items.tolist() == [2, 1, 2, 3, 1]  # who has it open keeps what was opened
    with pytest.raises(DataError, match="changed or removed while it was in use"):
        h.check()
    mine = tmp_path / "thesis"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="not a histories folder"):
            write(mine, overwrite=overwrite)
    assert (mine / "thesis.tex").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty")
    assert sorted(os.listdir(tmp_path)) == ["empty", "h", "thesis"]


def test_what_cannot_be_histories_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no events"):
        write(tmp_path / "h", items=np.array([]), times=None, offsets=np.array([0, 0, 0]))
    with pytest.raises(DataError, match="'time' has 4 rows for 5 events"):
        write(tmp_path / "h", times=np.arange(4))
    assert not list(tmp_path.iterdir())


def test_meta_that_was_edited(tmp_path: Path) -> None:
    meta = write(tmp_path / "h").path / "meta.json"
    whole = json.loads(meta.read_text())
    meta.write_text(json.dumps(whole | {"surprise": 1}))
    with pytest.raises(DataError, match="surprise"):
        open_histories(tmp_path / "h")
    meta.write_text(json.dumps(whole | {"n_events": 4}))
    with pytest.raises(DataError, match="rows"):
        open_histories(tmp_path / "h")


@pytest.mark.parametrize("name", FILES)
def test_files_of_the_right_size_and_files_removed_while_in_use(tmp_path: Path, name: str) -> None:
    h = write(tmp_path / "h")
    file = h.path / name
    file.write_bytes(b"\0" * file.stat().st_size)
    with pytest.raises(DataError, match=r"damaged|not a readable"):
        open_histories(h.path)
    file.unlink()
    with pytest.raises(DataError, match="changed or removed"):
        h.verify()


def test_verify_finds_an_edit_that_keeps_every_size(tmp_path: Path) -> None:
    h = write(tmp_path / "h")
    file = h.path / "events.arrow"
    whole = file.read_bytes()
    needle = np.array([2, 1, 2, 3, 1], dtype=np.int32).tobytes()
    assert whole.count(needle) == 1
    for items, says in (([2, 1, 2, 3, 2], "digest"), ([2, 1, 2, 9, 1], "item 9, outside 1..3")):
        file.write_bytes(whole.replace(needle, np.array(items, dtype=np.int32).tobytes()))
        with pytest.raises(DataError, match=says):
            open_histories(h.path).verify()


LIMITED = """
import resource, signal, sys
import numpy as np, polars as pl
from longrec.data.catalog import Catalog
from longrec.data.write import write_histories
from longrec.core.errors import DataError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
n = 100_000
try:
    write_histories(sys.argv[1], user_ids=pl.Series([1]), offsets=np.array([0, n]),
        items=np.ones(n), times=None, catalog=Catalog(pl.Series([1]), np.array([n])),
        source="log", time_unit=None)
except DataError as error:
    print(error)
    sys.exit(error.exit_status)
"""


def test_a_file_size_limit_leaves_nothing(tmp_path: Path) -> None:
    done = run_code(LIMITED, tmp_path / "h", stdout=subprocess.PIPE, text=True)
    said, _ = done.communicate()
    assert done.returncode == 1, said
    assert "disk is full" in said
    assert not list(tmp_path.iterdir())


@pytest.fixture
def tiny_disk(tmp_path: Path):
    """A file system of 256 KiB, where this user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)],
            capture_output=True,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("no mount program")
    if made.returncode:
        pytest.skip("this user may not mount a file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_leaves_nothing_and_spares_what_was_there(tiny_disk: Path) -> None:
    write(tiny_disk / "h")
    many = 100_000
    big = {
        "items": np.ones(many),
        "times": np.arange(many),
        "offsets": np.array([0, 1, many]),
        "overwrite": True,
    }
    with pytest.raises(DataError, match="disk is full"):
        write(tiny_disk / "h", **big)
    assert os.listdir(tiny_disk) == ["h"]
    open_histories(tiny_disk / "h").verify()


def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="was not written"):
        write(tmp_path / "file" / "h")
