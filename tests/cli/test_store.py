"""`longrec store`: the commands on real stores, beside a stream that is open, and killed."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import typer.main
from cli.running import longrec
from forking import run_code
from serving.maintenance.small_stores import (
    MODEL,
    OTHER,
    content_of,
    fill,
    logs_of,
    put_record,
    record,
    serve,
)
from serving.small_streams import recommender
from small_histories import tiny_histories, walks

from longrec.cli import app as commands
from longrec.core.errors import LongrecError
from longrec.recommender import Recommender, load
from longrec.runs.train import train
from longrec.serving.stores.open import open_store
from longrec.serving.stores.protocol import Event, Store

EVENTS = [Event(n, b"item%d" % (n % 7), b"id%d" % n) for n in range(20)]
USERS = {b"[red]a\x1b": EVENTS, b"b": EVENTS[:3], b"\xff": EVENTS[3:9]}
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys) -> Call:
    """`longrec store ARGV` here -> exit status, standard output, standard error."""

    def made(*argv: object) -> tuple[int, str, str]:
        capsys.readouterr()
        return longrec("store", *argv), *capsys.readouterr()

    return made


@pytest.fixture
def json_of(call) -> Callable[..., dict]:
    """What a command prints with --json, having ended well."""

    def made(*argv: object) -> dict:
        status, out, err = call(*argv, "--json")
        assert status == 0, err
        return json.loads(out)

    return made


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Three users' store, open in this process as that of a stream is."""
    opened = open_store(f"lmdb://{tmp_path}/store")
    serve(opened, OTHER, "hydrarec")
    serve(opened)
    fill(opened, USERS)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Recommender:
    """A trained recommender, saved."""
    place = tmp_path_factory.mktemp("run")
    histories = tiny_histories(place / "histories", walks(30, 20, 5, 20), n_items=20)
    small = {"dim": 8, "layers": 1, "ffn_dim": 8, "max_epochs": 1}
    return train(histories, "hydrarec", place / "run", **small)


# ---- the commands


def test_a_store_is_looked_at(call, json_of, store, tmp_path) -> None:
    found = json_of("info", store.url)
    models, lengths = found.pop("models"), found.pop("lengths")
    assert found == {
        **{"kind": "store", "url": store.url, "whole": True, "schema": 3},
        **{"created": found["created"], "users": 3, "events": 29, "bytes": store.totals().bytes},
        **{"users_read": 3, "last_event": "1970-01-01T00:00:19+00:00", "seen_items": None},
    }
    assert (lengths["min"], lengths["p50"], lengths["max"]) == (3, 6, 20)
    assert [one["users"] for one in lengths["users"]] == [1, 1, 0, 1]
    assert models == [
        {"name": "elastic", "digest": MODEL, "current": True, "records": 3, "run": None},
        {"name": "hydrarec", "digest": OTHER, "current": False, "records": 0, "run": None},
    ]
    status, out, _ = call("info", store.url)
    assert status == 0
    for words in ("elastic", "hydrarec", MODEL[:16], "29", store.url):
        assert words in out
    store.change_meta(lambda meta: meta.update(restoring={"backup": "00"}))
    assert json_of("info", store.url)["whole"] is False
    assert "half restored" in call("info", store.url)[2]


def test_there_and_back(call, json_of, store, tmp_path) -> None:
    backup, other = tmp_path / "backup", tmp_path / "other"
    counts = {"users": 3, "events": 29}
    told = json_of("backup", store.url, backup)
    whole = {"missing": [], "unnamed": 0, "problems": []}
    assert told == {"url": store.url, "path": str(backup), **counts, **whole}
    told = json_of("restore", backup, other)
    assert told == {"url": f"lmdb://{other}", "path": str(backup), **counts}
    with_json = json_of("info", other)
    assert [model["name"] for model in with_json["models"]] == ["elastic"]
    again = open_store(str(other), readonly=True)
    assert logs_of(again) == logs_of(store)
    again.close()
    third = f"lmdb://{tmp_path}/third"
    for argv in (["backup", store.url, tmp_path / "b2"], ["restore", tmp_path / "b2", third]):
        status, out, _ = call(*argv)
        assert status == 0
        assert "29" in out


def test_an_event_is_taken_back(call, json_of, store) -> None:
    store.close()
    url, user = store.url, "b"
    told = json_of("drop-event", url, user, "--event-id", "id1")
    gone = {"item": "item1", "time": 1, "event_id": "id1", "columns": {}}
    assert told == {"url": url, "user": user, "dropped": gone}
    assert json_of("drop-event", url, user, "--number", 2)["dropped"]["event_id"] == "id2"
    with closing(open_store(url, readonly=True)) as after:
        assert logs_of(after)[b"b"][1] == EVENTS[:1]
    for argv, words in (
        ((user, "--event-id", "id1"), "has no event with the id 'id1'"),
        ((user, "--number", 2), "has no event number 2"),
        (("nobody", "--number", 1), "has no event number 1"),
        ((user,), "either --event-id or --number"),
        ((user, "--event-id", "id1", "--number", 1), "either --event-id or --number"),
    ):
        status, _, err = call("drop-event", url, *argv)
        assert (status, words in err) == (2, True), err
    assert call("drop-event", f"{url}-none", user, "--number", 1)[0] == 1
    assert not Path(f"{url}-none".removeprefix("lmdb://")).exists()


def test_problems_are_told_with_the_mend(call, store) -> None:
    status, out, err = call("verify", store.url)
    assert (status, err) == (0, "")
    assert re.search(r"problems\W+0", out)
    put_record(store, b"[red]a\x1b", record(b"[red]a\x1b", 99))
    put_record(store, b"\xff", record(b"\xff", 99))
    put_record(store, b"b", record(b"b", 1))
    status, out, err = call("verify", store.url)
    assert status == 1
    assert "2 records that are ahead of their log" in out
    assert "mend: rebuild" in out
    assert "[red]" not in out + err
    assert "records that are ahead of their log" in err
    status, out, _ = call("verify", store.url, "--show")
    assert r"[red]a\x1b" in out
    status, out, _ = call("verify", store.url, "--show", "--json")
    found = json.loads(out)
    assert status == 1
    assert found["models"][0]["behind"] == 1
    [problem] = found["problems"]
    assert problem["number"] == 2
    assert problem["users"] == ["[red]a\x1b", "\\xff"]
    assert "users" not in json.loads(call("verify", store.url, "--json")[1])["problems"][0]


def test_old_models_go_and_room_comes_back(call, json_of, store) -> None:
    fill(store, {b"many": [Event(n, b"x" * 300, None) for n in range(3000)]})
    fill(store, {b"b": EVENTS[10:11], b"c": EVENTS[:1]}, OTHER)
    store.forget(b"many")
    store.change_meta(lambda meta: meta.update(rebuild={OTHER: {"job": "x", "after": ""}}))
    assert json_of("compact", store.url)["dropped"] == []
    assert store.totals().records == {MODEL: 3, OTHER: 2}
    store.change_meta(lambda meta: meta.pop("rebuild"))
    before = content_of(store)
    found = json_of("compact", store.url)
    assert found["dropped"] == [
        {"name": "hydrarec", "digest": OTHER, "current": False, "records": 2}
    ]
    assert content_of(store) == before
    assert list(store.meta()["models"]) == [MODEL]
    assert found["bytes_after"] == store.totals().bytes
    status, out, _ = call("compact", store.url)
    assert (status, "bytes after" in out) == (0, True)


def test_bytes_before_and_after(json_of, store) -> None:
    fill(store, {b"many": [Event(n, b"x" * 300, None) for n in range(3000)]})
    store.forget(b"many")
    found = json_of("compact", store.url)
    assert found["bytes_after"] < found["bytes_before"] / 4


def test_a_stream_s_store(json_of, call, run, tmp_path) -> None:
    url = f"lmdb://{tmp_path / 'streamed'}"
    random = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "user": random.integers(0, 9, 300),
            "item": random.integers(990, 1020, 300),
            "time": random.integers(0, 10**6, 300),
            "event_id": np.arange(300),
        }
    )
    with run.open_stream(url) as stream:
        stream.observe_many(frame)
        for user in range(3):
            stream.observe(user, 1001, 10**6, event_id=f"last {user}")
        best = stream.recommend(4, k=5)
        beside = json_of("verify", url, "--run", run.folder)
        json_of("backup", url, tmp_path / "backup")
    assert (beside["users"], beside["events"], beside["problems"]) == (9, 303, [])
    assert (beside["compared"], beside["outdated"]) == (9, 0)
    other = f"lmdb://{tmp_path / 'restored'}"
    json_of("restore", tmp_path / "backup", other)
    assert json_of("verify", other)["problems"] == []
    with run.open_stream(other) as stream:
        assert stream.recommend(4, k=5).equals(best)
        assert not stream.observe(0, 1001, 10**6, event_id="last 0").new


def test_a_new_model_is_told_the_command_that_lets_the_store_serve_it(tmp_path) -> None:
    """A stream refuses it with a command that works as printed; a server takes it up by itself."""
    old, new = (recommender(name) for name in ("elastic", "hydrarec"))
    new.save(tmp_path / "a new run")
    url = f"lmdb://{tmp_path}/the users"
    with old.open_stream(url, "process") as stream:
        stream.observe("ann", 100, 5)
    with pytest.raises(LongrecError, match="longrec store rebuild") as raised:
        load(tmp_path / "a new run").open_stream(url)
    error = str(raised.value)
    command = shlex.split(error[error.index("longrec store rebuild") :])[:5]
    assert command == ["longrec", "store", "rebuild", url, str(tmp_path / "a new run")]
    assert longrec(*command[1:]) == 0
    with new.open_stream(url) as stream:
        assert stream.stats()["records"] == 1


# ---- what is never shown, and help


@pytest.mark.parametrize("place", ["localhost:1/0", "localhost:port/0", "localhost:1/0?x=hunter2"])
def test_passwords_are_never_shown(call, monkeypatch, tmp_path, place) -> None:
    monkeypatch.setattr("longrec.serving.stores.redis_client.PATIENCE", 0)
    secret = f"redis://somebody:hunter2@{place}"
    for argv in (["info", secret], ["backup", secret, tmp_path / "b"], ["compact", secret]):
        status, out, err = call(*argv)
        assert status in (1, 2)
        assert err
        assert "hunter2" not in out + err


@pytest.mark.parametrize("verb", ["info", "backup", "restore", "verify", "compact"])
def test_every_verb_has_a_help_with_an_example_of_itself(call, verb) -> None:
    status, out, _ = call(verb, "--help")
    assert status == 0
    assert f"Example: longrec store {verb}" in " ".join(out.split())


def test_every_verb_is_in_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    group = typer.main.get_command(commands.app).commands["store"]
    for verb in group.commands:
        assert f"longrec store {verb} " in page


# ---- killed


@pytest.mark.parametrize("store", ["lmdb"], indirect=True)
def test_killed_restores_go_on(call, json_of, store, tmp_path) -> None:
    """Killed again and again, each time a little later, until one comes through."""
    logs = {
        b"user%03d" % n: [Event(m, b"i%d" % m, b"e%d" % m) for m in range(80)] for n in range(99)
    }
    fill(store, logs)
    json_of("backup", store.url, tmp_path / "backup")
    code = (
        "import sys\n"
        "import longrec.serving.maintenance.restore as restoring\n"
        "restoring.EVENTS_AT_ONCE = 40\n"
        "from longrec.serving.stores.open import open_store\n"
        "print('going', flush=True)\n"
        "restoring.restore(sys.argv[1], open_store(sys.argv[2]))\n"
    )
    killed = 0
    for pause in (0, 0.02, 0.05, 0.1, 0.2, 60):
        process = run_code(code, tmp_path / "backup", tmp_path / "other", stdout=subprocess.PIPE)
        process.stdout.readline()
        deadline = time.monotonic() + pause
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break
        killed += 1
        status, out, err = call("verify", tmp_path / "other", "--json")
        if status == 0:  # killed before the first step, or after the last
            assert json.loads(out)["users"] in (0, 102)
        else:
            assert "half restored" in err or "no store of users" in err
    assert killed
    assert json_of("verify", tmp_path / "other")["events"] == 29 + 99 * 80
    again = open_store(str(tmp_path / "other"), readonly=True)
    assert logs_of(again) == logs_of(store)
    again.close()
