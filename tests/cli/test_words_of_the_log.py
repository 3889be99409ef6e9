"""Who named a log's columns once need not rename them to ask: files have the log's own words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli.running import longrec

ROWS = "".join(f"L-{n % 5};{n * 7 % 11:03};{1700000000 + n}\n" for n in range(60))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("log.txt").write_text(f"Leser;Band;Wann\n{ROWS}")
    table = "".join(f"{n:03};Volume {n};{n}\n" for n in range(11))
    Path("volumes.csv").write_text(f"Band;title;pages\n{table}")
    Path("other.csv").write_text("Band;length\n" + "".join(f"{n:03};{n}\n" for n in range(11)))
    Path("who.csv").write_text("Leser\nL-1\nL-2\n")
    Path("not.csv").write_text("Band\n000\n001\n")
    Path("read.csv").write_text("Leser;Band;Wann\nann;007;2\nann;003;1\n")
    names = ("--user", "Leser", "--item", "Band", "--time", "Wann")
    assert longrec("prepare", "log.txt", *names, "--items", "volumes.csv", "--out", "h") == 0
    assert longrec("train", "h", "--model", "last-item", "--out", "run") == 0
    return tmp_path


def test_files_may_have_the_words_of_the_log(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask(*options: str) -> list[dict[str, object]]:
        capsys.readouterr()
        assert longrec("recommend", "run", "--exclude-seen", "no", "--json", *options) == 0
        return json.loads(capsys.readouterr().out)

    assert {row["user"] for row in ask("--user-file", "who.csv")} == {"L-1", "L-2"}
    left = ask("--user", "L-1", "-k", "20", "--exclude-file", "not.csv")
    assert {row["item"] for row in left} == {f"{n:03}" for n in range(2, 11)}
    rules = ("--items", "other.csv", "--where", "length < 2")
    assert {row["item"] for row in ask("--user", "L-1", *rules)} == {"000", "001"}
    by_file = ask("--history-file", "read.csv")
    assert {row["user"] for row in by_file} == {"ann"}
    by_words = ask("--history", "003", "007")
    assert [row["item"] for row in by_file] == [row["item"] for row in by_words]


def test_lists_for_people_have_titles(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert longrec("recommend", "run", "--user", "L-1", "-k", "20", "--exclude-seen", "no") == 0
    assert "Volume 10" in capsys.readouterr().out
    Path("h").rename("moved")
    assert longrec("recommend", "run", "--history", "003", "-k", "20") == 0
    assert "Volume" not in capsys.readouterr().out
