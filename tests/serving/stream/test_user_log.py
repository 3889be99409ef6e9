"""Explanations from the log of a store: those of the same history given, whatever is amiss."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import typer
from models.small_models import N
from serving.small_streams import FIRST, UNKNOWN, recommender, small_stream
from typer.testing import CliRunner

from longrec.cli.explain import explain as command
from longrec.cli.lists import ListCommand
from longrec.core.errors import DataError, UsageError
from longrec.mixers.dispatcher_memory import MemoryDispatcherMixer
from longrec.serving.stores.log_reader import NO_MODEL
from longrec.serving.stores.open import open_store
from longrec.serving.stores.protocol import Append, Event, Rewrite, Store
from longrec.serving.stream.id_keys import ItemIndex
from longrec.serving.stream.user_log import explain_user

CASES = ["elastic", "elastic by time", "elastic with a memory bank"]


def log(events: int) -> list[Event]:
    """Events with one late and some of an unknown item."""
    random = np.random.default_rng(events)
    items = random.integers(FIRST, FIRST + N, events)
    items[3::7] = UNKNOWN
    times = random.integers(0, 9999, events).cumsum()
    times[events // 2] = 5
    return [Event(int(t), b"%d" % i, None) for i, t in zip(items, times, strict=True)]


def add(store: Store, user: bytes, events: list[Event]) -> None:
    [stored] = store.read(NO_MODEL, [(user, ())])
    store.append(NO_MODEL, [Append(user, stored.log_id, stored.last, 0, events, None, ())])


@pytest.fixture
def store(tmp_path):
    found = open_store(str(tmp_path / "store"), "process")
    yield found
    found.close()


def index_of(rec) -> ItemIndex:
    return ItemIndex(rec.catalog)


@pytest.mark.parametrize("case", CASES)
def test_a_log_is_explained_as_the_same_history(case, store):
    rec, events = recommender(case), log(40)
    with torch.no_grad():
        for block in rec.model.blocks:
            if isinstance(block.mixer, MemoryDispatcherMixer):
                block.mixer.recall.weight.normal_()
    add(store, b"anna", events)
    add(store, b"berta", log(9))
    found = explain_user(rec, store, index_of(rec), b"anna", FIRST + 4)
    ids, times = [int(e.item) for e in events], [e.time for e in events]
    wanted = rec.explain(FIRST + 4, history=ids, times=times)
    assert found.to_dict(detail=True) == wanted.to_dict(detail=True)
    assert found.events["position"].to_list() == [n for n, i in enumerate(ids, 1) if i != UNKNOWN]
    assert found.events["time"].to_list() == [
        t for i, t in zip(ids, times, strict=True) if i != UNKNOWN
    ]
    as_text = explain_user(rec, store, index_of(rec), b"anna", str(FIRST + 4))
    assert as_text.to_dict() == found.to_dict()


@pytest.mark.parametrize("case", CASES)
def test_the_score_is_the_streams(case, tmp_path):
    with small_stream(case, tmp_path / "store") as stream:
        for event in log(30):
            stream.observe("anna", event.item, event.time)
        best = stream.recommend("anna", k=3, exclude_seen=False)
    rec = recommender(case)
    reading = open_store(str(tmp_path / "store"), "process", readonly=True)
    for item, score in zip(best["item"], best["score"], strict=True):
        found = explain_user(rec, reading, index_of(rec), b"anna", item)
        assert found.score == pytest.approx(score, abs=1e-4)
    reading.close()


def test_what_is_amiss_is_said(store):
    rec = recommender("elastic")
    add(store, b"anna", log(9))
    add(store, b"new", [Event(1, b"%d" % UNKNOWN, None)])
    items = index_of(rec)
    with pytest.raises(UsageError, match="user 'nobody' has no events in"):
        explain_user(rec, store, items, b"nobody", FIRST)
    with pytest.raises(UsageError, match="nothing to explain: of 1 events"):
        explain_user(rec, store, items, b"new", FIRST)
    with pytest.raises(UsageError, match=f"item {UNKNOWN} is not in the catalog"):
        explain_user(rec, store, items, b"anna", UNKNOWN)
    other = recommender("hydrarec")
    with pytest.raises(UsageError, match="not available for hydrarec"):
        explain_user(other, store, index_of(other), b"anna", FIRST)


def test_a_log_that_is_replaced_while_it_is_read_is_read_again(store):
    """As long as it is replaced in time; otherwise that is said."""
    rec = recommender("elastic")
    add(store, b"anna", log(9))

    class Restless:
        """The store, whose log is another one by the time its events are read."""

        def __init__(self, often: int) -> None:
            self.often, self.url, self.read = often, store.url, store.read

        def events(self, user: bytes, log_id: int, after: int, limit: int) -> list[Event]:
            if self.often:
                self.often -= 1
                [stored] = store.read(NO_MODEL, [(user, ())])
                store.rewrite([Rewrite(user, stored.log_id, stored.last, log(stored.last + 1))])
            return store.events(user, log_id, after, limit)

    found = explain_user(rec, Restless(2), index_of(rec), b"anna", FIRST)
    now = explain_user(rec, store, index_of(rec), b"anna", FIRST)
    assert found.to_dict() == now.to_dict()
    with pytest.raises(DataError, match="replaced again and again"):
        explain_user(rec, Restless(1000), index_of(rec), b"anna", FIRST)


def test_the_command_reads_a_store_beside_the_stream(tmp_path):
    rec, path = recommender("elastic"), tmp_path / "store"
    folder = rec.save(tmp_path / "run")
    app = typer.Typer()
    app.command(cls=ListCommand)(command)
    argv = [str(folder), "--item", str(FIRST), "--user", "anna", "--store", str(path), "--json"]
    with small_stream("elastic", path) as stream:
        for event in log(12):
            stream.observe("anna", event.item, event.time)
        done = CliRunner().invoke(app, argv)
        assert done.exit_code == 0, done.output
        reading = open_store(str(path), "process", readonly=True)
        wanted = explain_user(rec, reading, index_of(rec), b"anna", FIRST)
        assert json.loads(done.stdout) == json.loads(json.dumps(wanted.to_dict(10)))
        reading.close()
