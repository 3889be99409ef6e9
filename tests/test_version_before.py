"""What longrec 0.1.0 wrote is read by this version (fixtures: tests/fixtures/make_v0_1_0.py)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import longrec
from longrec.cli.app import app
from longrec.core.errors import LongrecError
from longrec.recommender import Recommender
from longrec.serving.stores.open import open_store

MADE = Path(__file__).parent / "fixtures" / "v0.1.0"
EXPECTED = json.loads((MADE / "expected.json").read_text())
RECOMMENDED = {"user", "rank", "item", "score", "policy"}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The fixtures where they may be written to."""
    return Path(shutil.copytree(MADE, tmp_path / "v0.1.0"))


@pytest.fixture(scope="module")
def rec(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    """The run that was trained then."""
    return longrec.load(shutil.copytree(MADE / "run", tmp_path_factory.mktemp("old") / "run"))


def assert_same_rows(found: list[dict], expected: list[dict]) -> None:
    assert len(found) == len(expected)
    for row, wanted in zip(found, expected, strict=True):
        assert {key: row[key] for key in RECOMMENDED - {"score"}} == {
            key: wanted[key] for key in RECOMMENDED - {"score"}
        }
        assert row["score"] == pytest.approx(wanted["score"], rel=1e-5)


def test_a_run_and_its_histories_give_the_same_numbers(old, rec):
    histories = longrec.open_histories(old / "histories")
    assert histories.fingerprint == EXPECTED["fingerprint"]
    assert rec.state_digest == EXPECTED["state_digest"]
    assert rec.catalog_version == EXPECTED["catalog_version"]
    metrics = longrec.evaluate(rec, histories)
    literature = {key: metrics[key] for key in EXPECTED["metrics"]}  # as served came later
    assert literature == pytest.approx(EXPECTED["metrics"], rel=1e-5)
    users = list(dict.fromkeys(row["user"] for row in EXPECTED["recommend"]))
    found = rec.recommend(users=users, data=histories, k=5)
    assert_same_rows(found.to_dicts(), EXPECTED["recommend"])


def assert_answers(rec: Recommender, url: str) -> None:
    """A store answers what it answered, goes on, and holds every event in its order."""
    with rec.open_stream(url, "process") as stream:
        asked = list(dict.fromkeys(row["asked"] for row in EXPECTED["stream"]))
        found = [row for user in asked for row in stream.recommend(user, k=5).to_dicts()]
        assert_same_rows(found, EXPECTED["stream"])
    assert log_of(url) == EXPECTED["log"]
    with rec.open_stream(url, "process") as stream:
        assert not stream.observe("late", "i2", 9, event_id="x").new
        assert stream.observe("late", "i2", 9, event_id="y").new


def log_of(url: str) -> list[list]:
    store = open_store(url, readonly=True)
    try:
        return [
            [user.decode(), e.time, e.item.decode(), e.event_id and e.event_id.decode()]
            for user in store.users(b"", 100)
            for e in store.events(user, store.read("", [(user, ())])[0].log_id, 0, 100)
        ]
    finally:
        store.close()


def test_a_store_in_lmdb_is_carried_over_by_one_command(old, rec):
    url = f"lmdb://{old / 'store.lmdb'}"
    for readonly in (True, False):
        with pytest.raises(LongrecError, match=r"longrec store upgrade lmdb:///.*nothing was"):
            open_store(url, "process", readonly)
    app(["store", "upgrade", url], standalone_mode=False)
    assert_answers(rec, url)
    app(["store", "verify", url, "--run", str(old / "run")], standalone_mode=False)
    with pytest.raises(LongrecError, match="needs no upgrade"):
        app(["store", "upgrade", url], standalone_mode=False)


@pytest.mark.parametrize("source", ["backup", "store.sqlite"])
def test_a_backup_and_a_store_in_sqlite_are_carried_over_by_one_command(old, rec, source):
    given = f"sqlite://{old / source}" if source.endswith("sqlite") else str(old / source)
    url = f"lmdb://{old / 'new'}"
    app(["store", "restore", given, url], standalone_mode=False)
    with rec.open_stream(url, "process") as stream:
        stream.rebuild()
    assert_answers(rec, url)


def test_a_store_in_sqlite_names_the_command_that_carries_it_over(old, rec):
    url = f"sqlite://{old / 'store.sqlite'}"
    with pytest.raises(LongrecError, match=r"longrec store restore sqlite:///.*store\.sqlite"):
        rec.open_stream(url)
