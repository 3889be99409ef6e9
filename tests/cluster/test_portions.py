"""Large files are read in pieces, and what comes of it is what one machine reads."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from of_one_process import Here

import longrec
from longrec.cluster import portions, reading
from longrec.cluster.log_tasks import Loaded
from longrec.cluster.portions import Portion, portions_of
from longrec.cluster.prepare import LogWorkers
from longrec.core.errors import DataError, LongrecError
from longrec.data.engine import Engine
from longrec.data.files import File
from longrec.data.sources import Part, open_source
from longrec.data.text_files import copy_piece, piece_ends

ROWS = [(f"u{n % 7}", f"i{n % 5}", 1_600_000_000 + n * 37 % 100) for n in range(60)]
LINES = [",".join(map(str, row)) for row in ROWS]
HEAD = "user,item,time"


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portions, "LEAST", 300)
    monkeypatch.setattr("longrec.cluster.prepare.SHARD", 40)


def text(*lines: str, end: str = "\n") -> bytes:
    return "".join(f"{line}{end}" for line in lines).encode()


def test_text_is_cut_behind_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    mark = b"\xef\xbb\xbf"
    whole = mark + text(*"abcdef") + b"g" * 30 + b"\r\n" + b"hh\n" + mark + b"i\nj\nk"
    path.write_bytes(whole)
    for size in range(1, len(whole) + 2):
        ends = piece_ends(File(path, "text"), size)
        pieces = []
        for span in zip([0, *ends], ends, strict=False):
            copy_piece(File(path, "text"), span, tmp_path / "piece")
            pieces.append((tmp_path / "piece").read_bytes())
        assert b"".join(pieces) == whole
        assert all(piece.endswith(b"\n") for piece in pieces[:-1])
        assert not any(piece.startswith(mark) for piece in pieces[1:])
        assert len(pieces) > 1 or size > 5
    assert piece_ends(File(path, "text"), 8)[-1] == len(whole)


def test_what_cannot_be_cut_is_read_by_one(tmp_path: Path) -> None:
    import gzip

    content = text(HEAD, *LINES)
    (tmp_path / "a.csv").write_bytes(content)
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(content))
    (tmp_path / "c.csv").write_bytes(content.decode().encode("utf-16"))
    (tmp_path / "d.csv").write_bytes(text(HEAD, *LINES, end="\r"))
    frame = pl.DataFrame(ROWS, schema=["user", "item", "time"], orient="row")
    frame.write_parquet(tmp_path / "e.parquet")
    frame.write_parquet(tmp_path / "f.parquet", row_group_size=10)
    named = frame.with_columns(file_row_number=1)  # the engine has another one of that name
    named.write_parquet(tmp_path / "g.parquet", row_group_size=10)
    (tmp_path / "h.csv").write_bytes(text(HEAD, *LINES[:2]))
    (tmp_path / "i.csv").write_bytes(text(HEAD, *LINES[:2]))
    engine = Engine(place=tmp_path / "out")
    parts = open_source(tmp_path, engine, print)
    engine.close()
    found = portions_of(parts, None, 1000)
    names = [[Path(part.name).name[0] for part in portion.parts] for portion in found]
    pieces = [portion.parts[0].span for portion in found if portion.parts[0].name.endswith("a.csv")]
    assert len(pieces) > 3
    assert [name for name in names if name != ["a"] and name != ["f"]] == [
        *(["b"], ["c"], ["d"], ["e"], ["g"], ["h", "i"])
    ]
    rows = [
        portion.parts[0].span for portion in found if portion.parts[0].name.endswith("f.parquet")
    ]
    assert len(rows) > 1
    assert rows[0][0] == 0
    assert rows[-1][1] == 60
    assert all(begin % 10 == 0 for begin, _ in rows)
    assert [p.last for p in found if p.first == 0] == [False] * (len(pieces) - 1) + [True]
    [latin] = portions_of(parts[:1], "latin-1", 1000)
    assert not latin.is_piece


def piece(quotes: int = 0, bad: int = 0, as_csv: bool = True, kind: str = "text") -> Any:
    part = Part("log.csv", kind, {}, span=(0, 9))
    rows = [(0, 1, "is bad", "")] * bad
    return Portion(0, [part], []), Loaded(Path("raw"), 9, 9, rows, [], {0: as_csv}, (9, quotes))


@pytest.mark.parametrize(
    ("pieces", "stand"),
    [
        ([piece(), piece()], True),
        ([piece(2), piece(4)], True),
        ([piece(bad=1), piece()], True),  # no quote mark: all rules read the same
        ([piece(3), piece(3)], False),  # the cut is perhaps inside of one field
        ([piece(2), piece(bad=1)], False),  # the whole file may be read by another rule
        ([piece(), piece(2, as_csv=False)], False),
        ([piece(1, bad=1, kind="jsonl"), piece(3, kind="jsonl")], True),
        ([piece(), (piece()[0], None)], False),
    ],
)
def test_pieces_that_stand_alone(pieces: list[Any], stand: bool) -> None:
    assert (reading._standing_alone(pieces) is not None) == stand


def csv(lines: list[str], end: str = "\n", head: str = HEAD) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "log.csv").write_bytes(text(head, *lines, end=end))

    return write


def with_words(words: list[str]) -> Callable[[Path], None]:
    lines = [f"{line},{words[n % len(words)]}" for n, line in enumerate(LINES)]
    return csv(lines, head=f"{HEAD},word")


def changed(**at: str) -> list[str]:
    """The lines with some of them replaced: n7="…"."""
    return [at.get(f"n{n}", line) for n, line in enumerate(LINES)]


def as_json(folder: Path) -> None:
    lines = [json.dumps(dict(zip(("user", "item", "time"), row, strict=True))) for row in ROWS]
    lines[3] += "\n"
    lines[31], lines[44], lines[50] = "no", '{"x": 1}', lines[50].replace("u", "\\u00fc")
    (folder / "log.jsonl").write_bytes(b"\xef\xbb\xbf" + text(*lines))


def as_parquet(folder: Path) -> None:
    frame = pl.DataFrame(ROWS, schema=["user", "item", "time"], orient="row")
    frame = frame.with_columns(user=pl.when(pl.arange(60) != 47).then("user"))
    frame.write_parquet(folder / "log.parquet", row_group_size=7)


LOGS: dict[str, tuple[Callable[[Path], None], bool]] = {
    "plain": (csv(LINES), True),
    "windows": (csv(LINES, end="\r\n"), True),
    "quoted": (with_words(['"a,b"', '"say ""so"""', "c"]), True),
    "line ends in quotes": (with_words(["a", '"b\n1,2,3,4"', "c"]), False),
    "a stray quote": (with_words(["a"] * 50 + ['5" tv'] + ["a"] * 9), False),
    "bad rows": (csv(changed(n2="", n30="only", n40=f"{HEAD}", n45=",i1,1600000000")), True),
    "bad rows behind quotes": (csv(changed(n3='"u1",i1,1600000000', n50="only")), False),
    "json": (as_json, True),
    "parquet": (as_parquet, True),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "skip"),
    [(name, True) for name in LOGS] + [(name, False) for name in LOGS if "bad" in name],
)
def test_pieces_are_read_as_the_whole_file(
    name: str, skip: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, cut = LOGS[name]
    (tmp_path / "log").mkdir()
    write(tmp_path / "log")
    read, whole = list[Portion](), list[Portion]()
    monkeypatch.setattr(reading, "portions_of", lambda *how: read.extend(portions_of(*how)) or read)
    monkeypatch.setattr(
        reading, "whole", lambda *how: whole.append(portions.whole(*how)) or whole[-1]
    )

    def result(workers: LogWorkers | None) -> Any:
        place = tmp_path / ("one" if workers is None else "many")
        options = {"skip_bad_rows": skip, "columns": ["word"] if "word" in cells else []}
        try:
            found = longrec.prepare(tmp_path / "log", place, workers=workers, **options)
        except LongrecError as error:
            return str(error)
        bad = place / "bad_rows.csv"
        rows = sorted(pl.read_csv(bad).rows()) if bad.exists() else []
        return found.fingerprint, found.meta.dropped, found.meta.labels, rows

    cells = next((tmp_path / "log").iterdir()).read_bytes()[:30].decode(errors="replace")
    one, many = result(None), result(LogWorkers(Here()))
    assert many == one
    assert len(read) > 2
    assert all(portion.is_piece for portion in read)
    assert bool(whole) == (not cut)


def test_a_file_that_changes_while_it_is_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(text(HEAD, *LINES))

    def change(*how: Any) -> list[Portion]:
        found = portions_of(*how)
        with path.open("ab") as file:
            file.write(b"u1,i1,1600000000\n")
        os.utime(path, ns=(1, 1))
        return found

    monkeypatch.setattr(reading, "portions_of", change)
    with pytest.raises(DataError, match=r"log\.csv was changed while it was read: run the command"):
        longrec.prepare(path, tmp_path / "out", workers=LogWorkers(Here()))
    assert os.listdir(tmp_path) == ["log.csv"]
