"""A recommender at work: events of users as they come, and recommendations at once.

    stream = recommender.open_stream("lmdb:///var/lib/shop")
    stream.observe(user="anna", item="p17", time=1_700_000_000, event_id="order-9")
    stream.recommend("anna", k=10)

An event is in the log, as durable as the store promises, when `observe` returns, and counts in the
next recommendation. What several threads observe at once is committed as one group.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from longrec.artifact.artifact import Artifact
from longrec.core.arguments import check_count, check_progress, check_seconds, described
from longrec.core.choices import Durability, ExcludeSeen
from longrec.core.errors import LongrecError, UsageError
from longrec.data.given_ids import as_names, check_ids, is_list
from longrec.data.histories import Histories, as_histories
from longrec.data.item_table import ItemTable
from longrec.inference.explain import Explanation
from longrec.models.common.added_score import AddedScore
from longrec.models.transitions import TransitionsScore
from longrec.retrieval.exact import ExactIndex
from longrec.retrieval.index import Index
from longrec.retrieval.restriction import short_lists
from longrec.serving.records.engine import Engine
from longrec.serving.stores.open import check_url, open_store
from longrec.serving.stores.protocol import Store, StoreFull, by_part
from longrec.serving.stream.ahead import DAY, Clock
from longrec.serving.stream.answer_frames import AnswerFrames
from longrec.serving.stream.dropping import drop_event
from longrec.serving.stream.event_frames import entries_of, read_rows
from longrec.serving.stream.fresh_counts import EVERY, FreshCounts
from longrec.serving.stream.group_commit import GroupCommit
from longrec.serving.stream.id_keys import ItemIndex, event_key, user_key
from longrec.serving.stream.imports import note_forgotten
from longrec.serving.stream.rebuild import Rebuild, Rebuilt, make_records
from longrec.serving.stream.recommending import (
    Ranker,
    Recommendation,
    Recommendations,
    RecommendRequest,
)
from longrec.serving.stream.store_models import (
    note_applied,
    note_skipping,
    register,
    take_over,
)
from longrec.serving.stream.user_log import explain_user
from longrec.serving.stream.writer import Counts, Entry, Observed, Writer

__all__ = ["Counts", "Observed", "Rebuilt", "Recommendations", "Stream"]

ROWS = 512
"""Events of a frame that are committed together."""
NOTHING_LEFT = (
    "no item is left to recommend: the user has seen all of them, or the rest is excluded. "
    "exclude_seen=False recommends seen items, too"
)
FEWER_LEFT = "all others are seen or excluded"
WARN_AT = 4
"""So many times the context that a model was trained with, and its scores are extrapolated."""


class Stream:
    """A recommender with an open store of users; make it with `Recommender.open_stream`.

    All methods may be called from any thread. It is a context manager, which closes the store.

    Attributes
    ----------
    artifact : whose model it is.
    ids : (n_items,) item ids, that of item index i at i - 1.
    fresh : what keeps transitions fresh, or None.
    store, engine, items, writer, ranker : its parts, for a server that gathers requests itself.
    """

    def __init__(
        self,
        artifact: Artifact,
        engine: Engine,
        store: Store,
        index: Index | None = None,
        table: Callable[[], ItemTable] | None = None,
        fresh_counts: float | None = None,
        max_ahead: float | None = DAY,
    ) -> None:
        self.artifact, self.engine, self.store = artifact, engine, store
        index = index or ExactIndex(artifact.scorer)
        self.items = ItemIndex(artifact.catalog)
        self.ranker = Ranker(artifact, store, engine, self.items, index, table)
        on_skipped = partial(note_skipping, store, artifact)
        self.writer = Writer(store, engine, self.items, on_skipped, Clock(max_ahead))
        # For each server of the store: who is on one of them does not wait for another one.
        self._commits: list[GroupCommit[Sequence[Entry], list[Observed]]] = [
            GroupCommit(self.writer.write) for _ in range(store.parts)
        ]
        self._requests: list[GroupCommit[RecommendRequest, Recommendation]] = [
            GroupCommit(self.ranker.recommend_each) for _ in range(store.parts)
        ]
        ids = artifact.catalog.ids
        numbers = ids.dtype.is_integer() and not ids.null_count()
        self.ids = ids.to_numpy() if numbers else ids  # which takes longer to index
        self._rebuilding = threading.Lock()
        context = artifact.train_config.context if engine.window is None else None
        self._warn_at = None if context is None else WARN_AT * context
        self._closed = False
        self._frames = AnswerFrames(self.ids)
        self.fresh: FreshCounts | None = None
        if fresh_counts is not None and isinstance(artifact.added, TransitionsScore):
            parts = store, artifact, self.items, index, fresh_counts, self.ranker.serve
            self.fresh = FreshCounts(*parts)
            self.fresh.start()

    @classmethod
    def open(
        cls,
        artifact: Artifact,
        url: str,
        durability: Durability = "power",
        beside: bool = False,
        index: Index | None = None,
        table: Callable[[], ItemTable] | None = None,
        fresh_counts: float | None = EVERY,
        max_ahead: float | None = DAY,
        another_catalog: bool = False,
    ) -> Stream:
        """See `Recommender.open_stream`."""
        if index is not None and not callable(getattr(index, "search", None)):
            raise UsageError(
                f"index is {described(index)}; give the index of "
                "longrec.retrieval.index_cache.open_index(recommender), or None"
            )
        check_seconds("fresh_counts", fresh_counts)
        check_seconds("max_ahead", max_ahead)
        url = check_url(url, durability)
        artifact = artifact.on_cpu()
        engine = Engine(artifact)
        store = open_store(url, durability)
        try:
            register(store, artifact, beside, another_catalog)
            return cls(artifact, engine, store, index, table, fresh_counts, max_ahead)
        except BaseException:
            store.close()
            raise

    def __repr__(self) -> str:
        state = ", closed" if self._closed else ""
        return f"Stream({self.store.url!r}, {self.artifact.name}{state})"

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the store; closing twice is nothing."""
        self._closed = True
        if self.fresh is not None:
            self.fresh.close()
        self.store.close()

    @property
    def index(self) -> Index:
        """How items are found now."""
        return self.ranker.index

    @property
    def added(self) -> AddedScore | None:
        """The added score that serves now; None without one."""
        return self.ranker.added

    @property
    def served(self) -> Artifact:
        """The recommender with the added score that serves now."""
        return replace(self.artifact, added=self.added)

    def observe(
        self,
        user: Any,
        item: Any,
        time: Any,
        event_id: Any = None,
        columns: Mapping[str, Any] | None = None,
    ) -> Observed:
        """Log an event and let the user's record take it in.

        Parameters
        ----------
        user, item : ids
            Text, whole numbers or bytes; 42 and "42" are the same.
        time : number or datetime
            Seconds since 1970 (UTC), or a datetime.
        event_id : id or None
            The caller's own id of the event, unique per user: observing it again is harmless. Where
            its other values are others then, the event that was logged first stays, and
            `conflicting` of the answer says so.
        columns : mapping or None
            Further columns by name, such as {"type": "buy", "weight": 2.0}: text, numbers and
            booleans, at most 32, names of 64 and text of 256 bytes. All are logged; what the model
            reads and is not there counts as missing.

        Raises
        ------
        UsageError
            When something is no id, no time or no column, the time is ahead of this machine's
            clock by more than `max_ahead`, or text stands where the model reads a number; nothing
            was logged.
        StoreFull
            When the store has no room; the event was not logged.
        StoreUnavailable
            When the store cannot be reached; whether the event was logged is not known, and with an
            event id it may be observed again.
        """
        self._check_open()
        [observed] = self._submit([self.writer.entry(user, item, time, event_id, columns)])
        return observed

    def observe_many(
        self,
        frame: Any,
        user: str | None = None,
        item: str | None = None,
        time: str | None = None,
        event_id: str | None = None,
        time_unit: str | None = None,
        columns: Sequence[str] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Counts:
        """Log the events of a frame in the order of its rows, all of which are checked first.

        Parameters
        ----------
        frame : polars or pandas frame, Arrow table or stream, or what `longrec.read_events` gives
        user, item, time, event_id : str or None
            Names of the columns. Those left out are recognised as `longrec.prepare` does, event ids
            by the name "event_id".
        time_unit : str or None
            "s", "ms", "us" or "ns" instead of detecting it from the frame.
        columns : sequence of str or None
            Names of further columns to log; None: those that the model reads, and of what
            `longrec.read_events` gives its further columns.
        progress : callable or None
            Called with (rows done, rows in all).

        Raises
        ------
        UsageError, DataError
            When a column is missing or a row is no event; nothing was logged.
        LongrecError
            When the store fails; the message tells how many rows are in.
        """
        self._check_open()
        check_progress(progress)
        read_by_model = self.engine.columns
        reads = () if read_by_model is None else read_by_model.names
        rows = read_rows(frame, user, item, time, event_id, time_unit, columns, reads)
        if len(rows):
            row = int(rows["time"].arg_max() or 0)
            self.writer.clock.check(rows["time"][row], f"the time of row {row + 1}")
        if read_by_model is not None:
            for packed in rows["columns"].unique().to_list() if len(rows) else ():
                read_by_model.check(packed)
        counts = Counts()
        for start in range(0, len(rows), ROWS):
            part = entries_of(rows[start : start + ROWS], self.items)
            try:
                counts = counts.plus(self._submit(part))
            except LongrecError as error:
                end = start + len(part)
                raise type(error)(
                    f"{error} (The first {start:,} of {len(rows):,} rows are in, rows "
                    f"{start + 1:,} to {end:,} may be. With event ids, give the same frame again.)"
                ) from error
            if progress:
                progress(start + len(part), len(rows))
        return counts

    def recommend(
        self,
        user: Any,
        k: int = 10,
        exclude: Iterable[Any] = (),
        among: Iterable[Any] | None = None,
        exclude_seen: ExcludeSeen = "auto",
        where: str | None = None,
    ) -> pl.DataFrame:
        """The k best items for a user, or for each of several, every observed event counted.

        Parameters
        ----------
        user : id, or a list of ids
        k : int
            Items wanted, for each.
        exclude : item ids
            Not to be recommended, in any iterable; unknown ones do not matter.
        among : item ids or None
            Recommend these only.
        exclude_seen : bool or "auto"
            Whether to leave out the items of the user's events; "auto": as the recommender does.
        where : str or None
            A rule that the items must fit, by the columns of the item table that the stream was
            opened with: what stands behind WHERE in SQL.

        Returns
        -------
        polars.DataFrame
            Columns user, rank (from 1), item, score, policy, as `Recommender.recommend` gives them:
            a user without known events gets popular items, and `policy` says "cold". There are
            fewer than k rows where the items run out. `user` is as it was given.

        Raises
        ------
        UsageError
            When the call is wrong.
        StoreUnavailable
            When the store cannot be reached.

        Warns
        -----
        UserWarning
            When fewer than k items are left: others are seen, or excluded.
        """
        self._check_open()
        excluded, _ = self.ranker.excluded(exclude, among, where)
        if is_list(user):
            return self._recommend_to(user, k, excluded, exclude_seen)
        request = self.ranker.request(user, k, excluded, exclude_seen)
        found = self._requests[self.store.part_of(request.user or b"")].submit(request)
        if len(found.items) < k:
            left = f"{len(found.items)} of {k} items are left: {FEWER_LEFT}"
            warnings.warn(left if len(found.items) else NOTHING_LEFT, UserWarning, stacklevel=2)
        return self._frames.frame(user, found)

    def _recommend_to(
        self, users: Sequence[Any], k: int, excluded: Any, exclude_seen: ExcludeSeen
    ) -> pl.DataFrame:
        """The frame of `recommend` for several users."""
        given = check_ids("user", users, "a user id, or a list of them")
        requests = [self.ranker.request(user, k, excluded, exclude_seen) for user in given]
        found = self.ranker.recommend_each(requests)
        for one in found:
            if isinstance(one, BaseException):
                raise one
        answers = [one for one in found if isinstance(one, Recommendation)]
        names, counts = as_names(given), np.array([len(one.items) for one in answers], np.int64)
        for line in short_lists(names, counts, k, "users", FEWER_LEFT):
            warnings.warn(line, UserWarning, stacklevel=3)
        return self._frames.frame_of_several(names, answers)

    def rank(
        self,
        users: Sequence[Any],
        k: int = 10,
        exclude: Iterable[Any] = (),
        among: Iterable[Any] | None = None,
        exclude_seen: ExcludeSeen = "auto",
        where: str | None = None,
    ) -> Recommendations:
        """The k best items of many users at once, as arrays; parameters as of `recommend`."""
        self._check_open()
        excluded, _ = self.ranker.excluded(exclude, among, where)
        given = check_ids("users", users, "a list of user ids")
        requests = [self.ranker.request(user, k, excluded, exclude_seen) for user in given]
        return self.ranker.recommend(requests)

    def explain(
        self, user: Any, item: Any, progress: Callable[[int, int], None] | None = None
    ) -> Explanation:
        """What the model reads of a user's log for an item: O(T); see `Recommender.explain`.

        Raises
        ------
        UsageError
            When the model's attention is not known, or the user or the item is unknown.
        DataError
            When the log is damaged.
        StoreUnavailable
            When the store cannot be reached.
        """
        self._check_open()
        check_progress(progress)
        key = user_key(user)
        return explain_user(self.served, self.store, self.items, key, item, progress)

    def forget(self, user: Any) -> bool:
        """Erase all that is kept of a user, event ids included; -> whether there was something.

        A rebuild that is bringing in histories does not bring in this user's.
        """
        self._check_open()
        key = user_key(user)
        noted = False
        with suppress(StoreFull):  # forgetting is what makes room
            note_forgotten(self.store, key)
            noted = True
        found = self.store.forget(key)
        if not noted:
            note_forgotten(self.store, key)
        return found

    def drop_event(self, user: Any, event_id: Any = None, number: int | None = None) -> bool:
        """Take an event back, as if it had never been observed; -> whether there was such.

        Its user's record is made anew from the log without it, O(T), and counts of what followed
        what are counted anew. The id is free again: a mended event may have it.

        Parameters
        ----------
        user : id
        event_id : id or None
            The caller's own id, with which the event was observed.
        number : int or None
            In place of it: the event's place in the user's log, from 1.

        Raises
        ------
        UsageError
            When the call is wrong, or histories are being brought into the store.
        DataError
            When the log is damaged.
        StoreFull, StoreUnavailable
        """
        self._check_open()
        key, name = user_key(user), None if event_id is None else event_key(event_id)
        if number is not None:
            number = check_count("number", number)
        if drop_event(self.store, key, name, number) is None:
            return False
        make_records(self.store, self.engine, self.items, [key])
        return True

    def rebuild(
        self,
        histories: Histories | str | Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Rebuilt:
        """Make all users' records anew from the log, and let the store serve this model.

        Users may be observed and recommended to meanwhile. When it is interrupted, the same call
        goes on where it was.

        Parameters
        ----------
        histories : Histories, path or None
            Events to put in front of the log first. Into an empty store go all of them, in front
            of what is observed meanwhile; else of each user those before the first event that is
            logged (of histories without times: those of users without a log). Once is enough: what
            is in the log is not imported again.
        progress : callable or None
            Called with (users done, users in all).

        Raises
        ------
        UsageError
            When the call is wrong, or this stream is rebuilding already.
        DataError
            When histories or logs are damaged.
        LongrecError
            When the store fails.
        """
        self._check_open()
        check_progress(progress)
        if histories is not None:
            histories = as_histories("histories", histories)
        rebuilt = self._rebuild(histories, progress, False)
        take_over(self.store, self.artifact)
        return rebuilt

    def apply_new_items(self, progress: Callable[[int, int], None] | None = None) -> Rebuilt:
        """Let events count that were skipped because their items were unknown, if they are known.

        That is needed once after the catalog has grown (`with_items`). The records that have
        skipped events are made anew from the log, as by `rebuild`, and the others stay; users may
        be observed and recommended to meanwhile, and when it is interrupted, the same call goes on
        where it was.

        Parameters
        ----------
        progress : callable or None
            Called with (users done, users in all).

        Raises
        ------
        UsageError
            When this stream is rebuilding already.
        DataError
            When logs are damaged.
        LongrecError
            When the store fails.
        """
        self._check_open()
        check_progress(progress)
        rebuilt = self._rebuild(None, progress, True)
        note_applied(self.store, self.artifact)
        return rebuilt

    def _rebuild(
        self,
        histories: Histories | None,
        progress: Callable[[int, int], None] | None,
        skipped_only: bool,
    ) -> Rebuilt:
        if not self._rebuilding.acquire(blocking=False):
            raise UsageError("this stream is rebuilding already: wait until that is done")
        try:
            parts = self.store, self.engine, self.items
            rebuild = Rebuild(*parts, histories, progress, skipped_only)
            rebuilt = rebuild.run(self.artifact.catalog_version)
        finally:
            self._rebuilding.release()
        self._warn_of(rebuild.longest)
        return rebuilt

    def stats(self) -> dict[str, Any]:
        """Figures of the store, and of this stream since it was opened; ready for JSON."""
        self._check_open()
        engine, store, writer = self.engine, self.store, self.writer
        totals, digest = store.totals(), engine.digest
        return {
            "model": self.artifact.name,
            "digest": digest,
            "catalog_version": self.artifact.catalog_version,
            "current": store.meta().get("current") == digest,
            "statement": engine.statement,
            "url": store.url,
            "durability": store.durability,
            "users": totals.users,
            "events": totals.events,
            "records": totals.records.get(digest, 0),
            "record_bytes": engine.layout.size,
            "bytes": totals.bytes,
            **writer.counts._asdict(),
            "groups": writer.groups,
            "replayed": writer.replayed + self.ranker.replayed,
            "damage": dict(store.damage.counts),
            "transitions": None if self.fresh is None else self.fresh.figures(),
        }

    def _submit(self, rows: Sequence[Entry]) -> list[Observed]:
        if self.store.parts == 1:
            observed = self._commits[0].submit(rows)
        else:
            observed = self._submit_by_part(rows)
        self._warn_of(self.writer.longest)
        return observed

    def _submit_by_part(self, rows: Sequence[Entry]) -> list[Observed]:
        """The same, each server's users apart; where one is away, the others' events are logged."""
        found: dict[int, Observed] = {}
        failed: LongrecError | None = None
        for part, places in by_part(self.store, [row.user for row in rows]).items():
            try:
                observed = self._commits[part].submit([rows[place] for place in places])
                found.update(zip(places, observed, strict=True))
            except LongrecError as error:
                failed = error
        if failed is not None:
            raise failed
        return [found[place] for place in range(len(rows))]

    def _warn_of(self, events: int) -> None:
        """Warn once if a user has far more events than the model was trained to read."""
        if self._warn_at is None or events <= self._warn_at:
            return
        self._warn_at = None
        context = self.artifact.train_config.context
        warnings.warn(
            f"{self.artifact.name} was trained on the last {context} events of each user, and "
            f"a user of this stream has {events:,}: the state takes all of them in, as evaluate "
            "does, but the model has not learnt to use so many. Train it with a larger context, or "
            "without one",
            UserWarning,
            stacklevel=4,
        )

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError(f"this stream of {self.store.url} was closed: open it again")
