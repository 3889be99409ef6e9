"""What a simulated service is asked to do, one step after the other, and what must be there then.

A step is drawn by a seeded generator from what is there. Each is one of: an event, several at once,
one sent again, a user forgotten, an event taken back, a question, a rebuild, another model taken
over, old records dropped, what follows what counted and kept, the store compacted, backed up,
restored elsewhere, closed and opened, histories brought in, a model saved in place of another, and
time that passes.
"""

from __future__ import annotations

import atexit
import random
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Self
from unittest.mock import patch

import numpy as np
import polars as pl
from serving.fresh_streams import with_transitions
from serving.small_streams import FIRST, UNKNOWN, quick_engine, recommender
from simulation.watched import BEGIN, Watched

from longrec.core.choices import Durability
from longrec.data.histories import Histories, open_histories
from longrec.data.write import write_histories
from longrec.recommender import Recommender
from longrec.serving.maintenance.backup import backup
from longrec.serving.maintenance.restore import restore
from longrec.serving.stores.open import open_store
from longrec.serving.stores.packed_columns import pack_columns
from longrec.serving.stores.protocol import Event
from longrec.serving.stream import rebuild
from longrec.serving.stream.counts_snapshot import load_counts, save_counts
from longrec.serving.stream.id_keys import ItemIndex, event_key, item_key, user_key
from longrec.serving.stream.log_counts import LogCounts, LogGone, count_log
from longrec.serving.stream.store_models import register
from longrec.serving.stream.stream import Stream

STORE, BACKUPS, RESTORED = Path("shop/users"), Path("kept/backup"), Path("again/users")
RUN = Path("models/run")
USERS = ("anna", "boris", "carla", "42")
KINDS = {
    "observe": 40,
    "several": 15,
    "again": 6,
    "forget": 4,
    "take back": 5,
    "recommend": 6,
    "rebuild": 2,
    "take over": 3,
    "drop records": 2,
    "count": 3,
    "compact": 3,
    "back up": 2,
    "restore": 2,
    "save": 2,
    "bring in": 3,
    "open anew": 4,
    "pass time": 6,
}
"""How often each is drawn, beside the others."""
OF_ANY_STORE = {kind: KINDS[kind] for kind in list(KINDS)[:9]} | {"open anew": 4, "bring in": 3}
"""Those that need no folder."""

Logs = Mapping[str, tuple[Event, ...]]


class Expected(NamedTuple):
    """What must be there: logs of users, the models that are served and saved, whether histories
    were brought in, a backup of the store, and what was restored of it."""

    logs: Logs
    serves: int
    brought: bool = False
    saved: int | None = None
    backup: Logs | None = None
    restored: Logs | None = None


class Step(NamedTuple):
    """One step, what is there before and after it, and of events its rows.

    by_user : whether users come one after the other, each as before the step or as after it.
    """

    kind: str
    before: Expected
    after: Expected
    user: str = ""
    rows: tuple[tuple[Any, ...], ...] = ()
    by_user: bool = False


@cache
def models(trained: bool) -> tuple[Recommender, Recommender]:
    """Two models of one catalog: quick ones that count, or ones with weights."""
    names = ("hydrarec", "elastic") if trained else ("last-item", "popularity")
    return with_transitions(names[0]), recommender(names[1])


@cache
def older() -> tuple[Histories, Logs]:
    """Histories of some of the users, and their events as a store has them."""
    logs: dict[str, tuple[Event, ...]] = {}
    for number, user in enumerate((*USERS[:3], "dora")):
        times = range(BEGIN - 2 * 10**6, BEGIN - 2 * 10**6 + 2 * number + 1)
        logs[user] = tuple(Event(time, item_key(FIRST + time % 20), None) for time in times)
    events = [event for log in logs.values() for event in log]
    folder = Path(tempfile.mkdtemp(prefix="longrec-simulation-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write_histories(
        folder / "histories",
        user_ids=pl.Series(list(logs)),
        offsets=np.cumsum([0, *map(len, logs.values())]),
        items=np.array([int(event.item) - FIRST + 1 for event in events]),
        times=np.array([event.time for event in events]),
        catalog=models(False)[0].catalog,
        source="test",
        time_unit="s",
    )
    return open_histories(folder / "histories"), logs


def draw(
    dice: random.Random, before: Expected, number: int, kinds: Mapping[str, int] = KINDS
) -> Step:
    """The next step."""
    [kind] = dice.choices(list(kinds), list(kinds.values()))
    user = dice.choice(USERS)
    log = before.logs.get(user, ())
    if kind in ("observe", "several"):
        many = 1 if kind == "observe" else dice.randint(2, 6)
        rows = tuple(_row(dice, number, n) for n in range(many))
        return Step(kind, before, before._replace(logs=_with(before.logs, rows)), "", rows)
    if kind in ("again", "take back"):
        named = [event for event in log if event.event_id is not None]
        if not named:
            return draw(dice, before, number, kinds)
        row = dice.choice(named)
        if kind == "again":
            return Step(kind, before, before, user, ((user, row),))
        rest = tuple(event for event in log if event != row)
        return Step(kind, before, before._replace(logs=_put(before.logs, user, rest)), user, (row,))
    if kind == "forget":
        return Step(kind, before, before._replace(logs=_put(before.logs, user, ())), user)
    if kind == "take over":
        return Step(kind, before, before._replace(serves=1 - before.serves))
    if kind == "bring in":
        if before.brought:
            return draw(dice, before, number, kinds)
        logs = before.logs
        for name, events in older()[1].items():
            logs = _put(logs, name, events + logs.get(name, ()))
        return Step(kind, before, before._replace(logs=logs, brought=True), by_user=True)
    if kind == "save":
        return Step(kind, before, before._replace(saved=1 - (before.saved or 0)))
    if kind == "back up":
        before = before._replace(backup=None)
        return Step(kind, before, before._replace(backup=before.logs))
    if kind == "restore":
        if before.backup is None:
            return draw(dice, before, number, kinds)
        before = before._replace(restored=None)
        return Step(kind, before, before._replace(restored=before.backup))
    return Step(kind, before, before, user)


def _row(dice: random.Random, number: int, n: int) -> tuple[Any, ...]:
    item = UNKNOWN if dice.random() < 0.1 else FIRST + dice.randrange(20)
    time = BEGIN - 10**6 + 60 * number + 30 * dice.randint(-3, 3)
    return dice.choice(USERS), item, time, f"{number}-{n}", "buy" if dice.random() < 0.3 else None


def _put(logs: Logs, user: str, log: tuple[Event, ...]) -> Logs:
    kept = {name: events for name, events in logs.items() if name != user}
    return kept | {user: log} if log else kept


def _with(logs: Logs, rows: tuple[tuple[Any, ...], ...]) -> Logs:
    for user, item, time, name, kind in rows:
        columns = pack_columns({"type": kind} if kind else {})
        event = Event(time, item_key(item), event_key(name), columns)
        logs = _put(logs, user, (*logs.get(user, ()), event))
    return logs


class Service:
    """A stream on a store, that does steps.

    Parameters
    ----------
    url, durability, trained : of the store; which models.
    serves : which of the two models.
    watched : the folder for steps that need one.
    """

    def __init__(
        self,
        url: str,
        durability: Durability,
        trained: bool,
        serves: int,
        watched: Watched | None = None,
    ) -> None:
        self.url, self.durability, self.trained, self.watched = url, durability, trained, watched
        self.stream = self._opened(serves, False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.stream.close()

    @property
    def folder(self) -> Watched:
        assert self.watched is not None
        return self.watched

    def _opened(self, serves: int, beside: bool) -> Stream:
        store = open_store(self.url, self.durability)
        try:
            rec = models(self.trained)[serves]
            register(store, rec, beside)
            return Stream(rec, quick_engine(rec), store)
        except BaseException:
            store.close()
            raise

    def do(self, step: Step) -> None:
        """Do a step; done again after a crash, it goes on."""
        name = "_" + step.kind.replace(" ", "_")
        work: Callable[[Step], None] = getattr(self, name)
        work(step)

    def _observe(self, step: Step) -> None:
        [(user, item, time, name, kind)] = step.rows
        self.stream.observe(user, item, time, name, {"type": kind} if kind else None)

    def _several(self, step: Step) -> None:
        entry = self.stream.writer.entry
        self.stream.writer.write(
            [[entry(*row, {"type": kind} if kind else None) for *row, kind in step.rows]]
        )

    def _again(self, step: Step) -> None:
        [(user, event)] = step.rows
        assert event.event_id is not None
        answer = self.stream.observe(user, event.item, event.time, event.event_id)
        assert not answer.new, "an event that is there was logged again"

    def _forget(self, step: Step) -> None:
        self.stream.forget(step.user)

    def _take_back(self, step: Step) -> None:
        self.stream.drop_event(step.user, step.rows[0].event_id)

    def _recommend(self, step: Step) -> None:
        self.stream.rank(USERS, 3)

    def _rebuild(self, step: Step) -> None:
        with patch.object(rebuild, "USERS", 2):
            self.stream.rebuild()

    def _bring_in(self, step: Step) -> None:
        with patch.object(rebuild, "USERS", 2):
            self.stream.rebuild(older()[0])

    def _take_over(self, step: Step) -> None:
        other = self._opened(step.after.serves, True)
        with patch.object(rebuild, "USERS", 2):
            other.rebuild()
        self.stream.close()
        self.stream = other

    def _drop_records(self, step: Step) -> None:
        self.stream.store.drop(models(self.trained)[1 - step.after.serves].state_digest)

    def _count(self, step: Step) -> None:
        count(self.stream, models(self.trained)[0])

    def _compact(self, step: Step) -> None:
        self.stream.store.compact()

    def _back_up(self, step: Step) -> None:
        folder = self.folder.root / BACKUPS
        shutil.rmtree(folder, ignore_errors=True)
        backup(self.stream.store, folder)

    def _restore(self, step: Step) -> None:
        folder = self.folder.root / RESTORED
        if not self._is_under_way(folder):
            shutil.rmtree(folder, ignore_errors=True)
        store = open_store(str(folder), self.durability)
        try:
            restore(self.folder.root / BACKUPS, store)
        finally:
            store.close()

    def _is_under_way(self, folder: Path) -> bool:
        if not folder.exists():
            return False
        store = open_store(str(folder), self.durability)
        try:
            return "restoring" in store.meta()
        finally:
            store.close()

    def _save(self, step: Step) -> None:
        copy = replace(models(self.trained)[step.after.saved or 0])  # it notes where it is saved
        copy.save(self.folder.root / RUN)

    def _open_anew(self, step: Step) -> None:
        self.stream.close()
        self.stream = self._opened(step.after.serves, False)

    def _pass_time(self, step: Step) -> None:
        self.folder.now += 0.7


def count(stream: Stream, rec: Recommender) -> LogCounts:
    """Count what followed what, from what is kept on, and keep it."""
    assert rec.added is not None
    items, like = ItemIndex(rec.catalog), rec.added
    kept = load_counts(stream.store, like, rec.catalog_version)
    try:
        counted = count_log(stream.store, items, kept or LogCounts.none(like), lambda: None)
    except LogGone:
        counted = count_log(stream.store, items, LogCounts.none(like), lambda: None)
    save_counts(stream.store, counted, rec.catalog_version)
    return counted


def key_of(user: str) -> bytes:
    return user_key(user)
