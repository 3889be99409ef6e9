"""The loop that logs messages: what is done in which order, and what ends it."""

from __future__ import annotations

from pathlib import Path

import pytest
from ingest.ingest_jobs import UNKNOWN, ListSource, Parts, event, logged

from longrec.core.errors import LongrecError
from longrec.ingest import consume
from longrec.ingest.source import Notes
from longrec.serving.stores.protocol import StoreUnavailable, UserDamaged
from longrec.serving.stream.stream import Stream


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consume, "RETRY", 0.01)


def consumer(stream: Stream, source: ListSource, folder: Path, said=None, **limits) -> Parts:
    notes = Notes((said if said is not None else []).append)
    limits = {"until_end": True, "patience": 0.0} | limits
    return Parts(stream, source, folder / "dead.jsonl", notes, "json", **limits)


def test_each_event_is_logged_once_in_its_order_and_letters_are_kept(
    stream: Stream, tmp_path: Path
):
    rows = [event("ann", n) for n in range(6)]
    bad = [b"{", {"user": "ann"}, event("ann", 9) | {"time": 1e12}, event("ann", 10**9)]
    source = ListSource({"a": [*rows[:3], *bad, *rows[3:]], "b": [event("bob", 0, UNKNOWN)]})
    one = consumer(stream, source, tmp_path, batch=4)
    counts = one.run()
    assert counts[:3] == (7, 0, 1)
    assert logged(stream.store, "ann") == list(range(6))
    assert [(letter["offset"], letter["kind"]) for letter in one.dead()] == [
        *(("3", "format"), ("4", "event"), ("5", "event"), ("6", "ahead"))
    ]
    assert source.kept == {"a": 10, "b": 1}
    assert source.calls[-1] == "close"
    source.kept = {"a": 2, "b": 0}  # as after a kill in front of a commit
    again = consumer(stream, source, tmp_path)
    assert again.run()[:2] == (0, 5)
    assert logged(stream.store, "ann") == list(range(6))
    assert len(one.dead()) == 4


def test_nothing_is_committed_that_is_not_logged(stream: Stream, tmp_path, monkeypatch):
    source = ListSource({"a": [event("ann", n) for n in range(4)]})

    def away(batches):
        raise StoreUnavailable("the store is away")

    monkeypatch.setattr(stream.writer, "write", away)
    said: list[str] = []
    with pytest.raises(LongrecError, match="the same command goes on"):
        consumer(stream, source, tmp_path, said).run()
    assert source.kept == {"a": 0}
    assert source.alive > 0, "it stays in the group while it waits"
    assert "waiting for the store" in said[0]
    monkeypatch.undo()
    assert consumer(stream, source, tmp_path).run().accepted == 4


def test_letters_are_on_disk_before_positions_are_kept(stream: Stream, tmp_path, monkeypatch):
    source = ListSource({"a": [b"{", event("ann", 1)]})
    one = consumer(stream, source, tmp_path)
    commit = source.commit

    def check(messages):
        assert len(one.dead()) == 1
        assert logged(stream.store, "ann") == [1]
        commit(messages)

    monkeypatch.setattr(source, "commit", check)
    one.run()
    assert source.kept == {"a": 2}


def test_a_log_of_garbage_ends_with_an_error_and_is_read_again(stream: Stream, tmp_path: Path):
    rows = [{"who": "ann", "item": 100, "time": n} for n in range(8)]
    source = ListSource({"a": [event("ann", 0), *rows]})
    with pytest.raises(LongrecError, match="--map"):
        consumer(stream, source, tmp_path, batch=1, dead=5).run()
    assert source.kept == {"a": 1}, "the messages are read again, with another --map"
    one = Parts(stream, source, tmp_path / "d", Notes(), "json", ["user=who"], until_end=True)
    assert one.run().accepted == 8
    source.kept = {"a": 1}
    one = consumer(stream, source, tmp_path, batch=1, dead=0)
    one.run()
    assert source.kept == {"a": 9}, "with --dead-limit 0 nothing ends it"


def test_a_source_that_was_away_is_gone_on_with(stream: Stream, tmp_path: Path):
    source = ListSource({"a": [event("ann", 0)]})
    source.away = 1
    said: list[str] = []
    assert consumer(stream, source, tmp_path, said, patience=60.0).run().accepted == 1
    assert [line.split(":")[0] for line in said] == [
        "waiting for the source",
        "the source answers again, after 0 s",
    ]
    source.away = 9
    with pytest.raises(LongrecError, match="--patience"):
        consumer(stream, source, tmp_path).run()


def test_a_user_in_two_partitions_is_counted_and_named_by_place(stream: Stream, tmp_path: Path):
    source = ListSource({"a": [event("ann", 0), event("bob", 1)], "b": [event("ann", 2)]})
    said: list[str] = []
    one = consumer(stream, source, tmp_path, said)
    one.run()
    assert one.notes.counts["split_user"] == 1
    [line] = said
    assert "a (at 0)" in line
    assert "b (at 0)" in line
    assert "ann" not in line


def test_a_user_who_is_damaged_holds_up_nobody_else(stream: Stream, tmp_path, monkeypatch):
    source = ListSource({"a": [event("ann", 0), event("bob", 1), event("ann", 2)]})
    write = stream.writer.write

    def damaged(batches):
        return [
            UserDamaged("damaged") if batch[0].user == b"ann" else write([batch])[0]
            for batch in batches
        ]

    monkeypatch.setattr(stream.writer, "write", damaged)
    one = consumer(stream, source, tmp_path)
    assert one.run().accepted == 1
    assert [letter["offset"] for letter in one.dead()] == ["0", "2"]
    assert source.kept == {"a": 3}


def test_another_event_with_a_known_id_is_a_letter(stream: Stream, tmp_path: Path):
    rows = [event("ann", n) | {"event_id": "same"} for n in (1, 1, 2)]
    one = consumer(stream, ListSource({"a": rows}), tmp_path)
    counts = one.run()
    assert (counts.accepted, counts.duplicates, counts.conflicting) == (1, 2, 1)
    assert [(letter["offset"], letter["kind"]) for letter in one.dead()] == [("2", "conflict")]


def test_told_to_stop_it_finishes_what_it_has_read(stream: Stream, tmp_path: Path):
    source = ListSource({"a": [event("ann", n) for n in range(6)]})
    one = consumer(stream, source, tmp_path, batch=2, until_end=False)

    def stop(line: str) -> None:
        one.stop.told = True

    one.run(stop)
    assert source.kept == {"a": 2}
    assert logged(stream.store, "ann") == [0, 1]
    assert source.calls == ["poll", "commit", "close"]


def test_how_much_of_a_run_of_garbage_is_read_again_is_told(stream: Stream, tmp_path: Path):
    """What came before a time without messages was kept at the source by then."""
    source = ListSource({"a": [b"{"] * 2})
    one = consumer(stream, source, tmp_path, dead=5, until_end=False)
    more = iter([[b"{"] * 3])

    def progress(line: str) -> None:
        if source.kept == {"a": 2}:
            source.partitions["a"] += next(more, [])

    with pytest.raises(LongrecError, match=r"5 messages in a row .* begins with the last 3 of"):
        one.run(progress)
    assert source.kept == {"a": 2}
