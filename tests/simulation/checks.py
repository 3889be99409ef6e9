"""What a crash has left, held against what was acknowledged before it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
import torch
from serving.small_streams import quick_engine
from simulation.service import BACKUPS, RESTORED, RUN, STORE, USERS, Expected, Logs, Step, models

from longrec.artifact.folder import RECOMMENDER
from longrec.core.choices import Durability
from longrec.core.errors import DataError
from longrec.serving.maintenance.backup import BACKUP, LOG
from longrec.serving.maintenance.replay import Replay
from longrec.serving.maintenance.verify import verify
from longrec.serving.stores.log_reader import NO_MODEL, read_log
from longrec.serving.stores.open import open_store
from longrec.serving.stores.protocol import DAMAGED, Append, Event, Store
from longrec.serving.stream.counts_snapshot import load_counts
from longrec.serving.stream.id_keys import ItemIndex, user_key
from longrec.serving.stream.log_counts import LogCounts, LogGone, count_log


class Found(NamedTuple):
    """What is there; else how it was told that something is not."""

    expected: Expected | None
    told: str = ""


def check(folder: Path, step: Step, durability: Durability, trained: bool, thorough: bool) -> Found:
    """Hold a folder against the step that was under way: it is as before it, or as after it.

    thorough : records and counts as well against what the log gives.
    """
    store = open_store(str(folder / STORE), durability)
    try:
        found = check_store(store, step, trained, thorough)
        if thorough:
            check_counts(store, trained)
    finally:
        store.close()
    if step.before == step.after:
        if step.after.backup is not None:
            assert logs_of_backup(folder / BACKUPS) == step.after.backup, "a backup is another"
        if step.after.restored is not None:
            restored = open_store(str(folder / RESTORED), durability)
            try:
                assert "restoring" not in restored.meta(), "a restore that ended has not"
                assert logs_of(restored) == step.after.restored, "a restored store is another"
            finally:
                restored.close()
    return Found(found)


def check_store(store: Store, step: Step, trained: bool, thorough: bool) -> Expected:
    """Hold a store against a step; -> what is there."""
    assert not store.damage.counts, f"nothing is lost, and it says {dict(store.damage.counts)}"
    found = state_of(store, step, trained)
    replay = replay_of(trained, found.serves) if thorough and found.logs else None
    problems = verify(store, replay).problems
    assert not problems, f"verify says {problems}"
    return found


def check_cut(folder: Path, step: Step, durability: Durability, trained: bool) -> Found:
    """The same after a power cut of a store that waits for no disk: all is there, or it is told."""
    try:
        store = open_store(str(folder / STORE), durability)
    except DataError:
        return Found(None, "told, and not opened")
    try:
        if store.damage.counts:
            go_on(store)
            return Found(None, "told, and opened")
        return Found(check_store(store, step, trained, False))
    finally:
        store.close()


def go_on(store: Store) -> None:
    """Write to a store: LMDB may end the process where pages are damaged."""
    users = [user_key(user) for user in (*USERS, "eric")]
    appends = []
    for user, found in zip(users, store.read(NO_MODEL, [(u, ()) for u in users]), strict=True):
        event = Event(1, b"item", b"after the crash")
        appends.append(Append(user, found.log_id, found.last, 0, [event], None, ()))
    store.append(NO_MODEL, appends)
    store.forget(users[0])
    store.compact()


def saved_in(folder: Path, step: Step, trained: bool) -> int | None:
    """The model that is saved: before the step or after it, and whole."""
    allowed = {step.before.saved, step.after.saved}
    try:
        name, words = RECOMMENDER.read(folder / RUN)["model"], ""
    except DataError as error:
        name, words = None, str(error)
    saved = {model.name: number for number, model in enumerate(models(trained))}.get(name)
    assert saved in allowed, f"another model is saved, or none: {words}"
    return saved


def state_of(store: Store, step: Step, trained: bool) -> Expected:
    """Which of the two states is there."""
    logs, serves = logs_of(store), store.meta().get("current")
    assert not any(DAMAGED in log for log in logs.values()), "an event is damaged or missing"
    digests = [model.state_digest for model in models(trained)]
    if step.by_user and serves == digests[step.before.serves]:
        names = {*step.before.logs, *step.after.logs}
        if all(logs.get(n) in (step.before.logs.get(n), step.after.logs.get(n)) for n in names):
            brought = logs == step.after.logs and step.after.brought
            return step.before._replace(logs=logs, brought=brought)
    for one in (step.before, step.after):
        if logs == one.logs and serves in (digests[one.serves], *([] if logs else [None])):
            return one
    for user in USERS:
        told = [len(some.get(user, ())) for some in (step.before.logs, logs, step.after.logs)]
        assert logs.get(user) in (step.before.logs.get(user), step.after.logs.get(user)), (
            f"{user} had {told[0]} events before the step and has {told[1]}, {told[2]} after it"
        )
    raise AssertionError(f"some users are as before the step and some as after it; {serves}")


def logs_of(store: Store) -> Logs:
    """All logs."""
    logs: dict[str, tuple[Event, ...]] = {}
    keys = {user_key(user): user for user in (*USERS, "dora")}
    for key in store.users(b"", 100):
        [stored] = store.read(NO_MODEL, [(key, ())])
        events = [event for part in read_log(store, key, stored) for event in part]
        logs[keys[key]] = tuple(events)
    return logs


def logs_of_backup(folder: Path) -> Logs:
    """All logs of a backup, which is whole."""
    BACKUP.read(folder)
    logs: dict[str, tuple[Event, ...]] = {}
    keys = {user_key(user): user for user in (*USERS, "dora")}
    for row in pq.read_table(folder / LOG).to_pylist():
        event = Event(row["time"], row["item"], row["event_id"], row["columns"] or b"")
        logs[keys[row["user"]]] = (*logs.get(keys[row["user"]], ()), event)
    return logs


def check_counts(store: Store, trained: bool) -> None:
    """What followed what, if it is kept, is a part of what the log gives."""
    rec = models(trained)[0]
    assert rec.added is not None
    kept = load_counts(store, rec.added, rec.catalog_version)
    if kept is None:
        return
    items = ItemIndex(rec.catalog)
    try:
        all_of_it = count_log(store, items, kept, lambda: None)
    except LogGone:
        return
    anew = count_log(store, items, LogCounts.none(rec.added), lambda: None)
    for name in ("counts", "starts", "followers", "times"):
        ours, theirs = (getattr(one.table, name) for one in (all_of_it, anew))
        assert torch.equal(ours, theirs), "what followed what is not what the log gives"


@cache
def replay_of(trained: bool, serves: int) -> Replay:
    """A replay with an engine that is made once."""
    rec = models(trained)[serves]
    replay = Replay.__new__(Replay)
    replay.engine, replay.scorer = quick_engine(rec), rec.scorer
    replay.items, replay.digest = ItemIndex(rec.catalog), replay.engine.digest
    return replay
