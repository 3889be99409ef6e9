"""The best items of users, from their records as they stand, or from histories that are given."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from longrec.artifact.artifact import Artifact
from longrec.core.arrays import Ints
from longrec.core.errors import DataError, UsageError
from longrec.retrieval.index import Index
from longrec.retrieval.item_mask import allowed, as_bits, row_bytes
from longrec.serving.records.engine import Engine
from longrec.serving.stores.log_reader import LogChanged
from longrec.serving.stores.protocol import Kept, Put, Store, version_of
from longrec.serving.stream.catch_up import bitmap, bits, catch_up, records_of
from longrec.serving.stream.id_keys import ItemIndex, item_key, seconds, user_key
from longrec.serving.stream.log_rewrite import restless

LONG = 32
"""Replayed events from which a record that has caught up is written back."""
TRIES = 20
"""How often a user is read again whose log was replaced while it was read."""

Pairs = list[tuple[int, int]]
"""Events (item index, time in seconds); index 0: an item that the model does not know."""


class Query(NamedTuple):
    """What is wanted: the k best items, but for the barred ones.

    user : key of a user of the store, or None with a `history`.
    history : events, oldest first.
    barred : None, or (n_items // 8 + 1,) uint8, bit i (the lowest first) for item index i.
    exclude_seen : whether the items of the user's events are barred, too.
    """

    user: bytes | None
    history: Pairs
    k: int
    barred: np.ndarray | None
    exclude_seen: bool


class Ranked(NamedTuple):
    """The best items for n queries.

    items : (n, k) int64 item indices, best first; 0 where they ran out.
    scores : (n, k) float32, -inf there.
    personal : (n,) bool; False: no known events, so popular items.
    """

    items: Ints
    scores: np.ndarray
    personal: np.ndarray


class Answer(NamedTuple):
    """The best items for one query: item indices (m,), best first, scores (m,), m at most its k.

    personal : False: no known events, so popular items.
    """

    items: Ints
    scores: np.ndarray
    personal: bool


class Standing(NamedTuple):
    """Where users stand: what is kept, records at the end of their logs, and items on the way."""

    kept: list[Kept]
    records: np.ndarray
    met: dict[int, Ints]


class Ranker:
    """Ranks items for users of a store; for any number of threads."""

    def __init__(
        self, artifact: Artifact, store: Store, engine: Engine, items: ItemIndex, index: Index
    ) -> None:
        self.catalog, self.store, self.engine = artifact.catalog, store, engine
        self.items, self.index = items, index
        self.replayed, self._counting = 0, threading.Lock()
        self._bytes = row_bytes(self.catalog.n_items)

    def query(
        self, user: Any, k: int, barred: np.ndarray | None = None, exclude_seen: bool = True
    ) -> Query:
        """What is wanted for a user of the store, checked."""
        return Query(user_key(user), [], _checked(k), barred, exclude_seen)

    def query_history(
        self,
        history: Sequence[tuple[Any, Any]],
        k: int,
        barred: np.ndarray | None = None,
        exclude_seen: bool = True,
    ) -> Query:
        """The same for a history, (item, time) with the oldest event first, instead of a user."""
        items = self.items.find([item_key(item) for item, _ in history])
        times = [seconds(time) for _, time in history]
        return Query(None, list(zip(items, times, strict=True)), _checked(k), barred, exclude_seen)

    def barred(self, exclude: Iterable[Any], among: Iterable[Any] | None) -> np.ndarray | None:
        """The items that `Stream.recommend` is told not to give, as `Query.barred`."""
        out = self._indices(exclude, "exclude")
        if among is None and not out:
            return None
        if among is None:
            return as_bits(out, self.catalog.n_items)
        found = ~as_bits(self._indices(among, "among"), self.catalog.n_items)
        return found | as_bits(out, self.catalog.n_items) if out else found

    def answer(self, queries: Sequence[Query]) -> list[Answer | BaseException]:
        """The best items for each query; where a user's record is damaged, that one fails alone."""
        try:
            items, scores, personal = self.rank(queries)
        except DataError as error:
            if len(queries) == 1:
                return [error]
            return [found for query in queries for found in self.answer([query])]
        many = np.count_nonzero(items, axis=1).tolist()
        cuts = [min(n, query.k) for n, query in zip(many, queries, strict=True)]
        return [
            Answer(items[row, :cut], scores[row, :cut], bool(personal[row]))
            for row, cut in enumerate(cuts)
        ]

    def rank(self, queries: Sequence[Query]) -> Ranked:
        """The best items for each query, as many as the one that wants most of them."""
        stored = [row for row, query in enumerate(queries) if query.user is not None]
        users = [user for query in queries if (user := query.user) is not None]
        seen = any(queries[row].exclude_seen for row in stored)
        for _ in range(TRIES):
            try:
                standing = self._standing(users, seen)
                tails = self._tails(users, standing.kept)
                break
            except LogChanged:
                continue
        else:
            raise restless(self.store)
        if len(stored) == len(queries):
            return self._rank(queries, standing, tails)
        return self._rank(queries, *self._with_histories(queries, stored, standing, tails))

    def _rank(self, queries: Sequence[Query], standing: Standing, tails: list[Pairs]) -> Ranked:
        records, n = standing.records, len(queries)
        width = min(max((query.k for query in queries), default=0), self.catalog.n_items)
        personal = records["sequence"] > records["skipped"]
        if self.engine.window is not None:
            personal = np.array([len(tail) > 0 for tail in tails], bool)
        if n and personal.all():
            return Ranked(*self._best(queries, range(n), standing, tails, width), personal)
        items = np.zeros((n, width), np.int64)
        scores = np.full((n, width), -np.inf, np.float32)
        warm = np.flatnonzero(personal).tolist()
        if warm:
            items[warm], scores[warm] = self._best(queries, warm, standing, tails, width)
        for row in np.flatnonzero(~personal).tolist():
            popular, barred = self.catalog.popular, queries[row].barred
            if barred is not None:
                popular = allowed(barred, popular)
            popular = popular[:width]
            items[row, : len(popular)] = popular
            scores[row, : len(popular)] = self.catalog.counts[popular - 1]
        return Ranked(items, scores, personal)

    def _best(
        self,
        queries: Sequence[Query],
        rows: Sequence[int],
        standing: Standing,
        tails: list[Pairs],
        width: int,
    ) -> tuple[Ints, np.ndarray]:
        """The best items for those queries whose users have known events."""
        records = standing.records
        if len(rows) < len(queries):
            records = records[list(rows)]
        h = self.engine.read(records, [tails[row] for row in rows] if tails else None)
        barred = None
        if any(queries[row].exclude_seen or queries[row].barred is not None for row in rows):
            barred = np.zeros((len(rows), self._bytes), np.uint8)
            for place, row in enumerate(rows):
                self._bar(barred[place], queries[row], standing.kept[row], standing.met.get(row))
        found = self.index.search(h, width, barred)
        return found.items.numpy(), found.scores.float().numpy()

    def _bar(self, out: np.ndarray, query: Query, kept: Kept, met: Ints | None) -> None:
        """Set the bits of what a query's user is not to get."""
        if query.exclude_seen:
            seen = np.frombuffer(kept.seen, np.uint8)[: self._bytes]  # more: of a newer catalog
            out[: len(seen)] = seen
            if met is not None:
                out |= as_bits(met, self.catalog.n_items)
        if query.barred is not None:
            out |= query.barred

    def _indices(self, items: Iterable[Any], name: str) -> list[int]:
        if isinstance(items, str | bytes):
            raise UsageError(f"{name} is one id; give a list of item ids")
        if isinstance(items, np.ndarray) and items.dtype.kind in "iuf":  # slow one by one
            items = items.tolist()
        try:
            keys = [item_key(item) for item in items]
        except TypeError:
            raise UsageError(
                f"{name} is of type {type(items).__name__}; give a list of item ids"
            ) from None
        return self.items.find(keys) if keys else []

    def _with_histories(
        self,
        queries: Sequence[Query],
        stored: Sequence[int],
        standing: Standing,
        tails: list[Pairs],
    ) -> tuple[Standing, list[Pairs]]:
        """The same by query, those with a history of their own as if it were a user's log."""
        histories: list[Pairs] = [query.history for query in queries]
        records = self.engine.load([None] * len(queries))
        self.engine.advance(records, histories)
        kept = [Kept(0, len(some), None, b"", ()) for some in histories]
        met = {
            row: np.unique([item for item, _ in some if item])
            for row, some in enumerate(histories)
            if some
        }
        for place, row in enumerate(stored):
            records[row], kept[row] = standing.records[place], standing.kept[place]
            if place in standing.met:
                met[row] = standing.met[place]
        read: list[Pairs] = []
        if self.engine.window is not None:
            of_users = iter(tails)
            read = [
                [event for event in query.history if event[0]][-self.engine.window :]
                if query.user is None
                else next(of_users)
                for query in queries
            ]
        return Standing(kept, records, met), read

    def _standing(self, users: Sequence[bytes], seen: bool) -> Standing:
        """Where users stand, those who are behind caught up."""
        kept = self.store.read(self.engine.digest, [(user, ()) for user in users], seen)
        records = records_of(self.engine, kept)
        before = records["sequence"].copy()
        met = catch_up(self.store, self.engine, self.items, users, kept, records)
        if (records["sequence"] != [one.last for one in kept]).any():
            raise LogChanged
        if met:
            moved = records["sequence"] - before
            with self._counting:
                self.replayed += int(moved.sum())
            long = np.flatnonzero(moved >= LONG).tolist()
            if long and not seen:  # the whole bitmap is written with the record
                return self._standing(users, True)
            self._write_back(users, Standing(kept, records, met), long)
        return Standing(kept, records, met)

    def _write_back(self, users: Sequence[bytes], standing: Standing, rows: list[int]) -> None:
        kept, records, met = standing
        written = records.copy()
        written["version"] += 1
        puts = []
        for row in rows:
            seen = np.flatnonzero(bits(kept[row].seen, 8 * len(kept[row].seen)))
            puts.append(
                Put(
                    user=users[row],
                    born=kept[row].born,
                    version=version_of(kept[row].record),
                    record=self.engine.dump(written, row),
                    seen=bitmap(np.concatenate([seen, met[row]])),
                )
            )
        if puts:
            self.store.put(self.engine.digest, puts)

    def _tails(self, users: Sequence[bytes], kept: Sequence[Kept]) -> list[Pairs]:
        """What a model with a window reads of users; of the others' logs nothing."""
        if self.engine.window is None:
            return []
        return [
            self._tail(user, one, self.engine.window) for user, one in zip(users, kept, strict=True)
        ]

    def _tail(self, user: bytes, kept: Kept, window: int) -> Pairs:
        """The last known events of a user, as many as the model reads, oldest first."""
        tail: Pairs = []
        end, many = kept.last, window
        while end > 0 and len(tail) < window:
            start = max(0, end - many)
            events = self.store.events(user, kept.born, start, end - start)
            if len(events) < end - start:
                raise LogChanged
            indices = self.items.find([event.item for event in events])
            pairs = zip(indices, events, strict=True)
            tail = [(index, event.time) for index, event in pairs if index] + tail
            end, many = start, 2 * many
        return tail[-window:]


def _checked(k: int) -> int:
    if k < 1:
        raise UsageError(f"k is {k}; it must be at least 1")
    return k
