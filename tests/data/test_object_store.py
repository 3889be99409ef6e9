"""Logs and histories in an object store; and what is never said of who may read there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from bucket import KEY, SECRET, served

import longrec
from longrec.core.errors import DataError, LongrecError, UsageError
from longrec.data.object_store import Objects, _pattern, address_of


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a bucket."""
    with served(tmp_path / "store") as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        (tmp_path / "store" / "bucket").mkdir(parents=True)
        yield tmp_path / "store" / "bucket"


def write_log(folder: Path) -> None:
    draw = np.random.default_rng(4)
    for day in range(3):
        place = folder / f"date=2026-11-0{day + 1}"
        place.mkdir(parents=True)
        frame = pl.DataFrame({"user": draw.integers(0, 9, 40), "item": draw.integers(0, 9, 40)})
        frame = frame.with_columns(time=1_600_000_000 + draw.integers(0, 50, 40))
        frame.write_csv(place / "part.csv")
    (folder / "notes.md").write_text("not a log")


@pytest.mark.slow
def test_a_log_in_a_store_is_the_log_on_a_disk(store: Path, tmp_path: Path) -> None:
    write_log(store / "log")
    one = longrec.prepare(store / "log", tmp_path / "one", columns=["date"])
    for source in ("s3://bucket/log", Path("s3://bucket/log"), "s3://bucket/log/*/*.csv?region=x"):
        other = longrec.prepare(source, tmp_path / "other", overwrite=True, columns=["date"])
        assert other.fingerprint == one.fingerprint
        assert other.meta.source.startswith("s3://bucket/log/date=2026-11-01/part.csv … s3://buck")
    text = "".join(p.read_text("latin-1") for p in (tmp_path / "other").iterdir())
    assert KEY not in text
    assert SECRET not in text
    (store / "log" / "date=2026-11-02" / "part.csv").write_text("user,item,time\n1,2,3\n1,2,3,4\n")
    with pytest.raises(DataError, match=r"^s3://bucket/log/date=2026-11-02/part\.csv: line 3 has"):
        longrec.prepare("s3://bucket/log", tmp_path / "third")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "other", "store"]


@pytest.mark.slow
def test_histories_in_a_store_are_copied_once(store: Path, tmp_path: Path) -> None:
    write_log(store / "log")
    one = longrec.prepare(store / "log", tmp_path / "one")
    shutil.copytree(one.path, store / "histories")
    found = longrec.open_histories("s3://bucket/histories")
    found.verify()
    assert found.fingerprint == one.fingerprint
    (store / "histories" / "events.arrow").unlink()
    assert longrec.open_histories(Path("s3://bucket/histories")).path == found.path
    (store / "log" / "date=2026-11-02" / "part.csv").unlink()
    other = longrec.prepare(store / "log", tmp_path / "two")
    shutil.rmtree(store / "histories")
    shutil.copytree(other.path, store / "histories")
    assert longrec.open_histories("s3://bucket/histories").fingerprint == other.fingerprint
    with pytest.raises(
        DataError, match=r"s3://bucket/log: no histories are there, it has no shards"
    ):
        longrec.open_histories("s3://bucket/log")
    with pytest.raises(DataError, match="there is no bucket 'bucke'"):
        longrec.open_histories("s3://bucke/log")


@pytest.mark.slow
def test_a_copy_that_is_not_what_was_written_is_not_kept(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_log(store / "log")
    longrec.prepare(store / "log", store / "histories")
    copy = Objects.copy

    def other(self: Objects, key: str, place: Path) -> None:
        copy(self, key, place)
        if key.endswith("events.arrow"):  # of another version, whose sizes are the same
            content = bytearray(place.read_bytes())
            content[len(content) // 2] ^= 1
            place.write_bytes(content)

    monkeypatch.setattr(Objects, "copy", other)
    with pytest.raises(DataError, match="s3://bucket/histories is damaged, or was changed while"):
        longrec.open_histories("s3://bucket/histories")
    assert not list((tmp_path / "cache").rglob("events.arrow"))
    monkeypatch.setattr(Objects, "copy", copy)
    longrec.open_histories("s3://bucket/histories").verify()


@pytest.mark.slow
def test_no_message_has_who_may_read(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    with pytest.raises(DataError, match=r"^s3://bucke/log: there is no bucket 'bucke'\.$"):
        longrec.prepare("s3://bucke/log", tmp_path / "out")
    for address in ("s3://bucket/none", f"s3://{KEY}:{SECRET}@bucket/x", f"s3://b/x?key={SECRET}"):
        with pytest.raises(LongrecError) as error:
            longrec.prepare(address, tmp_path / "out")
        told.append(str(error.value))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    with pytest.raises(LongrecError) as error:
        longrec.prepare("s3://bucket/log", tmp_path / "out")
    told.append(str(error.value))
    assert "no such object" in told[0]
    assert "leave it out" in told[1]
    assert "option 'key'" in told[2]
    assert "cannot be read" in told[3]
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(LongrecError, match=r"can be reached, and run the command again") as error:
        longrec.prepare("s3://bucket/log", tmp_path / "out")
    told.append(str(error.value))
    for line in told:
        assert SECRET not in line
        assert KEY not in line
        assert "\n" not in line
    with pytest.raises(UsageError, match="written to a disk"):
        longrec.prepare(pl.DataFrame({"user": [1], "item": [1]}), "s3://bucket/out", row_order=True)


def test_what_is_an_address() -> None:
    assert address_of("s3://bucket/a") == address_of(Path("s3://bucket/a")) == "s3://bucket/a"
    assert address_of("gs://bucket/a?b") == "gs://bucket/a?b"
    for path in ("bucket/a", Path("/s3/a"), "s3:", "s3:///a", "http://a/b", None, 3):
        assert address_of(path) is None
    found = _pattern("bucket/log/**/day-?/*.[ct]sv")
    assert found.fullmatch("bucket/log/day-1/a.csv")
    assert found.fullmatch("bucket/log/x/y/day-1/a.tsv")
    assert not found.fullmatch("bucket/log/day-1/b/a.csv")
    assert not found.fullmatch("bucket/log/day-1/a-csv")
    with pytest.raises(UsageError, match="NAME:PASSWORD@") as error:
        Objects("s3://me:word@bucket/x")
    assert "word" not in str(error.value).replace("a password", "")
