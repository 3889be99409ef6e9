"""Files of API keys: what they say now counts, flaws are told, and no key is."""

from __future__ import annotations

import json
import logging
import os
import threading
from pathlib import Path

import httpx
import pytest
from serving.http.served import LocalServer, local_server

from longrec.core.errors import DataError, UsageError
from longrec.serving.http.access_log import JsonLines
from longrec.serving.http.keys import Keys

OLD, NEW = "k" * 16 + "-old", "k" * 16 + "-new"


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n{OLD}\n\n")
    return file


def logged(caplog: pytest.LogCaptureFixture) -> list[dict]:
    return [json.loads(JsonLines().format(record)) for record in caplog.records]


FLAWED = {
    "short": (f"{NEW}\nshort\n", 2, "has 5 characters"),
    "spaces": (f"{NEW}\n{OLD} of ann\n", 2, "no header can carry"),
    "bytes": (f"{NEW}\n".encode() + b"\xff\xfe-these-are-no-text\n", 2, "no header can carry"),
    "zeros": (f"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\n{NEW}\n", 1, "no header can carry"),
}


@pytest.mark.parametrize("kind", FLAWED)
def test_of_a_flawed_file_the_good_lines_count_and_the_flaw_is_told(kind, file, caplog):
    keys = Keys(file)
    assert (len(keys), keys.flaws) == (1, 0)
    content, line, words = FLAWED[kind]
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with caplog.at_level(logging.INFO, "longrec.serve"):
        assert keys.knows(NEW)
        assert not keys.knows(OLD)
        assert not keys.knows("short")
    assert (len(keys), keys.flaws) == (1, 1)
    [error] = [entry for entry in logged(caplog) if entry["level"] == "error"]
    assert error["line"] == line
    assert words in error["problem"]
    assert not any(key in json.dumps(logged(caplog)) for key in (OLD, NEW, "short", "of ann"))


def test_a_file_that_says_nothing_lets_nobody_in_until_it_does(file, caplog):
    keys = Keys(file)

    def write(text: str) -> None:
        file.write_text(text)

    def replace_by_folder() -> None:
        file.unlink()
        file.mkdir()

    for spoil in (lambda: write(""), lambda: write("# none\n"), file.unlink, replace_by_folder):
        assert keys.knows(OLD)
        caplog.clear()
        with caplog.at_level(logging.INFO, "longrec.serve"):
            spoil()
            for _ in range(3):
                assert not keys.knows(OLD)
                assert not keys.knows("")
        assert bool(keys), "a file without keys must not open the server to everybody"
        assert (len(keys), keys.flaws) == (0, 1)
        assert [entry["level"] for entry in logged(caplog)] == ["error", "info"]  # said once
        if file.is_dir():
            file.rmdir()
        write(f"{OLD}\n")
    assert keys.knows(OLD)


def test_two_files_that_look_alike_are_told_apart(file):
    keys = Keys(file)
    for key in (NEW, OLD, NEW):  # of one size, within the grain of a file system's clock
        file.write_text(f"# ours\n{key}\n\n")
        os.utime(file, (1, 1))
        assert keys.knows(key)
        assert not keys.knows(NEW if key == OLD else OLD)
    other = file.with_name("other")
    other.write_text(f"# ours\n{OLD}\n\n")
    os.utime(other, (1, 1))
    other.replace(file)
    assert not keys.knows(NEW)


def test_keys_from_a_pipe_are_read_once():
    ours, theirs = os.pipe()
    try:
        os.write(theirs, f"{OLD}\n".encode())
        os.close(theirs)
        keys = Keys(Path(f"/dev/fd/{ours}"))
        assert all(keys.knows(OLD) for _ in range(3))
    finally:
        os.close(ours)


def test_what_an_editor_puts_at_the_beginning_is_no_part_of_a_key(file):
    file.write_bytes(f"\ufeff{OLD}\r\n{NEW}\r\n".encode())
    keys = Keys(file)
    assert keys.knows(OLD)
    assert keys.knows(NEW)
    assert not keys.flaws


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no such pipes here")
def test_a_pipe_in_place_of_the_file_stops_nobody_and_lets_nobody_in(file, caplog):
    keys, known = Keys(file), []
    file.unlink()
    os.mkfifo(file)
    asking = threading.Thread(target=lambda: known.append(keys.knows(OLD)), daemon=True)
    with caplog.at_level(logging.INFO, "longrec.serve"):
        asking.start()
        asking.join(10)
    assert known == [None]
    # A thread that an earlier test's server left may log meanwhile, too.
    (problem,) = (line["problem"] for line in logged(caplog) if "problem" in line)
    assert "no plain file" in problem
    file.unlink()
    file.write_text(f"{OLD}\n")
    assert keys.knows(OLD)


def test_a_server_does_not_start_without_a_key_and_names_the_flaw(tmp_path: Path, monkeypatch):
    file = tmp_path / "keys"
    with pytest.raises(DataError, match="keys: the file of API keys cannot be read"):
        Keys(file)
    file.write_text("# nothing\n")
    with pytest.raises(DataError, match="holds no API key"):
        Keys(file)
    file.write_text("\nsecret123\n")
    with pytest.raises(DataError, match="line 2 has 9 characters") as caught:
        Keys(file)
    assert "secret123" not in str(caught.value)
    file.write_text(f"{OLD}\nsecret123\n")
    assert Keys(file).flaws == 1  # a restart is no worse than an edit
    monkeypatch.setenv("LONGREC_API_KEYS", "secret123")
    with pytest.raises(UsageError, match="LONGREC_API_KEYS"):
        Keys()


def test_a_key_that_is_taken_away_ends_at_once(tmp_path: Path, file: Path):
    with local_server("elastic", tmp_path, settings={"keys": file}) as server:
        kept = server.client  # one connection, kept alive
        assert kept.get("/v1/model", headers=bearer(OLD)).status_code == 200
        waiting = asked_slowly(server)
        file.write_text(f"{NEW}\nshort\n")
        assert kept.get("/v1/model", headers=bearer(OLD)).status_code == 401
        late = waiting()
        assert late.status_code == 401, late.text
        assert late.json()["error"]["code"] == "key"
        assert "items" not in late.text
        metrics = kept.get("/metrics", headers=bearer(NEW)).text
        assert "longrec_keys 1.0" in metrics
        assert "longrec_key_flaws 1.0" in metrics
        file.write_text(f"{NEW}\n")
        assert "longrec_key_flaws 0.0" in kept.get("/metrics", headers=bearer(NEW)).text


def asked_slowly(server: LocalServer):
    """Ask with the old key, and let the answer wait; -> what goes on with it and gives it."""
    held, hold = threading.Event(), threading.Event()
    stream = server.server.service.current.stream
    answer_all = stream.ranker.recommend_each

    def slowly(queries):
        held.set()
        hold.wait(20)
        return answer_all(queries)

    stream.ranker.recommend_each = slowly
    answers: list[httpx.Response] = []

    def ask() -> None:
        with httpx.Client(base_url=server.url, timeout=30) as client:
            body = {"user": "ann"}
            answers.append(client.post("/v1/recommendations", json=body, headers=bearer(OLD)))

    thread = threading.Thread(target=ask)
    thread.start()
    assert held.wait(20)

    def go_on() -> httpx.Response:
        hold.set()
        thread.join(20)
        return answers[0]

    return go_on
