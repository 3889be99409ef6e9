"""The best items of users, from their records as they stand, or from histories that are given."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache, partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from longrec.artifact.artifact import Artifact
from longrec.core.arguments import check_count, check_text, described
from longrec.core.arrays import Ints
from longrec.core.choices import ExcludeSeen
from longrec.core.errors import DataError, UsageError
from longrec.data.catalog import Catalog
from longrec.data.given_histories import GivenEvent
from longrec.data.item_table import RULES_KEPT, ItemTable
from longrec.data.moments import seconds
from longrec.models.common.added_score import AddedScore
from longrec.models.common.gaps import NEVER
from longrec.retrieval.equal_lengths import of_users
from longrec.retrieval.index import Index, allowed, as_bits, row_bytes
from longrec.retrieval.restriction import rule_bits
from longrec.serving.records.engine import Engine, Moment
from longrec.serving.stores.log_reader import LogReplaced, read_events, retry_if_replaced
from longrec.serving.stores.packed_columns import pack_columns
from longrec.serving.stores.protocol import Event, Put, Store, StoredUser, next_version
from longrec.serving.stream.catch_up import bitmap, catch_up, records_of, seen_items
from longrec.serving.stream.id_keys import ItemIndex, item_key, user_key

Pause = Callable[[], object]
"""Called between pieces of long work, in which others then come first."""
PAUSE_EVERY, EVENTS_AT_ONCE = 128, 256
"""Ids between two pauses, and events of a history that are read between two."""
WRITE_BACK = 32
"""Replayed events from which a record that has caught up is written back."""

History = list[Moment]
"""Events as the model reads them, oldest first; item index 0: it does not know the item."""


def nothing() -> None:
    """The pause of work that does not give way."""


class RecommendRequest(NamedTuple):
    """The k best items are wanted, but for the excluded ones.

    user : key of a user of the store, or None with a `history`.
    excluded : None, or (n_items // 8 + 1,) uint8, bit i (the lowest first) for item index i.
    exclude_seen : whether the items of the user's events are excluded, too.
    """

    user: bytes | None
    history: History
    k: int
    excluded: np.ndarray | None
    exclude_seen: bool


class Recommendations(NamedTuple):
    """The best items for n requests.

    items : (n, k) int64 item indices, best first; 0 where they ran out.
    scores : (n, k) float32, -inf there.
    personal : (n,) bool; False: no known events, so popular items.
    unknown : (n,) int64, events of items that the model does not know, which it skipped.
    """

    items: Ints
    scores: np.ndarray
    personal: np.ndarray
    unknown: Ints


class Recommendation(NamedTuple):
    """The best items for one request: item indices (m,), best first, scores (m,), m at most its k.

    personal : False: no known events, so popular items.
    unknown : events of items that the model does not know, which it skipped.
    """

    items: Ints
    scores: np.ndarray
    personal: bool
    unknown: int


class UserStates(NamedTuple):
    """What is known of n users.

    records : (n,) at the ends of their logs.
    seen : (n, bytes) uint8, the items of their events as bits, as `RecommendRequest.excluded`.
    recent : for models with a window, per user the last events that it reads; else empty.
    """

    records: np.ndarray
    seen: np.ndarray
    recent: list[History]


class Ranker:
    """Ranks items for users of a store; for any number of threads.

    Attributes
    ----------
    index, added : how items are found now, and the added score that serves, or None.
    replayed : how many events were replayed so far, of records that were behind.
    """

    def __init__(
        self,
        artifact: Artifact,
        store: Store,
        engine: Engine,
        items: ItemIndex,
        index: Index,
        table: Callable[[], ItemTable] | None = None,
    ) -> None:
        self._artifact, self.catalog = artifact, artifact.catalog
        self.store, self.engine = store, engine
        self.items, self.index, self.added = items, index, artifact.added
        read = None if table is None else cache(table)  # when a rule comes first
        # No method of this object, which would hold itself: once the model is changed, the old one
        # would stay in memory until Python looks for garbage.
        self._rule_bits = lru_cache(RULES_KEPT)(partial(_barred_by, self.catalog, read))
        self.replayed, self._count_lock = 0, threading.Lock()
        self._mask_bytes = row_bytes(self.catalog.n_items)

    def serve(self, added: AddedScore, index: Index) -> None:
        """Let another added score serve; the index has it in all its parts."""
        self.index, self.added = index, added

    def request(
        self,
        user: Any,
        k: int,
        excluded: np.ndarray | None = None,
        exclude_seen: ExcludeSeen = "auto",
    ) -> RecommendRequest:
        """A request for a user of the store, checked."""
        hides = self._artifact.hides_seen(exclude_seen)
        return RecommendRequest(user_key(user), [], check_count("k", k), excluded, hides)

    def history_request(
        self,
        history: Sequence[GivenEvent],
        k: int,
        excluded: np.ndarray | None = None,
        exclude_seen: ExcludeSeen = "auto",
        name: str = "history",
        pause: Pause = nothing,
    ) -> RecommendRequest:
        """The same for a history, oldest event first, which errors call by a name."""
        hides = self._artifact.hides_seen(exclude_seen)
        moments = self.moments(history, name, pause)
        return RecommendRequest(None, moments, check_count("k", k), excluded, hides)

    def moments(
        self, history: Sequence[GivenEvent], name: str = "history", pause: Pause = nothing
    ) -> History:
        """A given history as the model reads it.

        Raises
        ------
        UsageError
            When something is no id or no time, or a column that the model reads is not there.
        """
        columns = self.engine.columns
        events = []
        for number, (item, time, given) in enumerate(history):
            moment = NEVER if time is None else seconds(time)
            event = Event(moment, item_key(item), None, pack_columns(given))
            if columns is not None:
                columns.check_given(event.columns, f"{name}.{number}")
            events.append(event)
            if not number % PAUSE_EVERY:
                pause()
        return self.engine.moments(self.items.find([event.item for event in events]), events)

    def excluded(
        self,
        exclude: Iterable[Any],
        among: Iterable[Any] | None,
        where: str | None = None,
        pause: Pause = nothing,
    ) -> tuple[np.ndarray | None, int]:
        """The items that `Stream.recommend` must not give, as `RecommendRequest.excluded`.

        Also how many of the ids are of no known item.
        """
        excluded = self._indices(exclude, "exclude", pause)
        n_items, unknown = self.catalog.n_items, excluded.count(0)
        bits = as_bits(excluded, n_items) if excluded else None
        if where is not None:
            check_text("where", where)
            barred = self._rule_bits(where)
            bits = barred if bits is None else bits | barred
        if among is None:
            return bits, unknown
        wanted = self._indices(among, "among", pause)
        others = ~as_bits(wanted, n_items)
        return others if bits is None else others | bits, unknown + wanted.count(0)

    def recommend_each(
        self, requests: Sequence[RecommendRequest], pause: Pause | None = None
    ) -> list[Recommendation | BaseException]:
        """The best items for each request; one with a damaged record fails alone.

        With `pause` long histories are read in pieces, between which it is called.
        """
        try:
            items, scores, personal, unknown = self.recommend(requests, pause)
        except DataError as error:
            if len(requests) == 1:
                return [error]
            return [
                found for request in requests for found in self.recommend_each([request], pause)
            ]
        found = np.count_nonzero(items, axis=1).tolist()
        counts = [min(n, request.k) for n, request in zip(found, requests, strict=True)]
        return [
            Recommendation(items[row, :count], scores[row, :count], bool(personal[row]), skipped)
            for row, (count, skipped) in enumerate(zip(counts, unknown.tolist(), strict=True))
        ]

    def recommend(
        self, requests: Sequence[RecommendRequest], pause: Pause | None = None
    ) -> Recommendations:
        """The best items for each request, at least as many as it wants; see `recommend_each`.

        A user whose scores are no finite numbers is read from the log again, once; with whom they
        are not finite even then, since the model gives none, gets popular items.
        """
        found, wrong = self._recommend(requests, frozenset(), pause)
        users = {user for row in wrong if (user := requests[row].user) is not None}
        if users:
            self.store.damage.note("result", len(users))
            found, wrong = self._recommend(requests, users, pause)
        if wrong:
            self.store.damage.note("result", len(wrong), "also when they were made anew")
            found.items[wrong], found.scores[wrong] = 0, -np.inf
            found.personal[wrong] = False
            self._fill(found, requests, wrong)
        return found

    def _recommend(
        self,
        requests: Sequence[RecommendRequest],
        distrusted: Collection[bytes],
        pause: Pause | None,
    ) -> tuple[Recommendations, list[int]]:
        """The same, records of `distrusted` users made anew; and the rows without finite scores."""
        users = [request.user for request in requests if request.user is not None]
        seen = any(request.exclude_seen for request in requests if request.user is not None)
        states = retry_if_replaced(self.store, lambda: self._states(users, seen, distrusted))
        if len(users) < len(requests):
            states = self._with_histories(requests, states, pause)
        n, n_items = len(requests), self.catalog.n_items
        width = min(max((request.k for request in requests), default=0), n_items)
        unknown = states.records["skipped"].astype(np.int64)
        personal = self._personal(states)
        if n and personal.all():
            items, scores, wrong = self._search(requests, range(n), states, width)
            return Recommendations(items, scores, personal, unknown), wrong
        items = np.zeros((n, width), np.int64)
        scores = np.full((n, width), -np.inf, np.float32)
        wrong = list[int]()
        known = np.flatnonzero(personal).tolist()
        if known:
            items[known], scores[known], wrong = self._search(requests, known, states, width)
        found = Recommendations(items, scores, personal, unknown)
        self._fill(found, requests, np.flatnonzero(~personal).tolist())
        return found, [known[row] for row in wrong]

    def _personal(self, states: UserStates) -> np.ndarray:
        """Who has events that the model knows (n,)."""
        if self.engine.window is not None:
            return np.array([len(recent) > 0 for recent in states.recent], bool)
        sequence: np.ndarray = states.records["sequence"]
        return sequence > states.records["skipped"]

    def user_vectors(self, users: Sequence[Any]) -> list[np.ndarray | None]:
        """Vectors of users of the store, (R, D) each: an item's score is the largest product of
        one of them and the item's in a vector store. None of a user of whom no event is known.

        Raises
        ------
        UsageError
            When the model has no vectors of users, or an id is none.
        DataError
            When the model gives no finite numbers for a user, also when the log is read anew.
        """
        self._artifact.check_has_vectors()
        keys = [user_key(user) for user in users]
        vectors, personal = self._user_vectors(keys, frozenset())
        wrong = _not_finite(vectors) & personal
        if wrong.any():
            self.store.damage.note("result", int(wrong.sum()))
            again = {key for key, bad in zip(keys, wrong, strict=True) if bad}
            vectors, personal = self._user_vectors(keys, again)
            if (_not_finite(vectors) & personal).any():
                raise DataError("the model gives no finite numbers for a user: train it again")
        return [one if known else None for one, known in zip(vectors, personal, strict=True)]

    def _user_vectors(
        self, users: Sequence[bytes], distrusted: Collection[bytes]
    ) -> tuple[np.ndarray, np.ndarray]:
        states = retry_if_replaced(self.store, lambda: self._states(users, False, distrusted))
        h = self.engine.read(states.records, states.recent or None)
        vectors = of_users(self._artifact.scorer.user_vectors(h).float().numpy())
        return vectors, self._personal(states)

    def _fill(
        self, found: Recommendations, requests: Sequence[RecommendRequest], rows: Sequence[int]
    ) -> None:
        """Put popular items into some rows."""
        for row in rows:
            popular, excluded = self.catalog.popular, requests[row].excluded
            if excluded is not None:
                popular = allowed(excluded, popular)
            popular = popular[: min(requests[row].k, found.items.shape[1])]
            found.items[row, : len(popular)] = popular
            found.scores[row, : len(popular)] = self.catalog.counts[popular - 1]

    def _search(
        self,
        requests: Sequence[RecommendRequest],
        rows: Sequence[int],
        states: UserStates,
        width: int,
    ) -> tuple[Ints, np.ndarray, list[int]]:
        """The best items for those requests whose users have known events, and their scores;
        and the places among them of those whose scores are not finite."""
        records = states.records
        if len(rows) < len(requests):
            records = records[list(rows)]
        tails = [states.recent[row] for row in rows] if states.recent else None
        h = self.engine.read(records, tails)
        excluded = None
        if any(requests[row].exclude_seen or requests[row].excluded is not None for row in rows):
            excluded = states.seen[list(rows)]
            for mask, row in zip(excluded, rows, strict=True):
                request = requests[row]
                if not request.exclude_seen:
                    mask[:] = 0
                if request.excluded is not None:
                    mask |= request.excluded
        recent = self.engine.recent(records)
        items = np.zeros((len(rows), width), np.int64)
        scores = np.full((len(rows), width), -np.inf, np.float32)
        for k, some in _of_like_width([min(requests[row].k, width) for row in rows]):
            found = self.index.search(
                h if len(some) == len(rows) else h[some],
                k,
                None if excluded is None else excluded[some],
                None if recent is None else recent[some],
            )
            items[some, :k] = found.items.numpy()
            scores[some, :k] = found.scores.float().numpy()
        return items, scores, _rows_without_numbers(h.numpy(), items, scores)

    def _indices(self, items: Iterable[Any], name: str, pause: Pause) -> list[int]:
        if isinstance(items, str | bytes):
            raise UsageError(f"{name} is one id; give a list of item ids")
        if isinstance(items, Mapping) or hasattr(items, "columns"):  # their keys are no items
            raise UsageError(f"{name} is {described(items)}; give a list of item ids")
        if isinstance(items, np.ndarray) and items.dtype.kind in "iuf":  # slow one by one
            items = items.tolist()
        try:
            given = iter(items)
        except TypeError:
            raise UsageError(
                f"{name} is of type {type(items).__name__}; give a list of item ids"
            ) from None
        keys = list[bytes]()
        while part := [item_key(item) for item in islice(given, PAUSE_EVERY)]:
            keys += part
            pause()
        return self.items.find(keys) if keys else []

    def _with_histories(
        self,
        requests: Sequence[RecommendRequest],
        stored: UserStates,
        pause: Pause | None,
    ) -> UserStates:
        """States per request: those stored, and of given histories as if they were logs."""
        histories = [request.history for request in requests]
        records = self.engine.layout.load([None] * len(requests))
        longest = max(map(len, histories))
        piece = longest if pause is None else EVENTS_AT_ONCE
        for start in range(0, longest, max(1, piece)):
            self.engine.advance(records, [some[start : start + piece] for some in histories])
            if pause is not None:
                pause()
        known = [[event for event in history if event[0]] for history in histories]
        seen = np.array(
            [as_bits([event[0] for event in events], self.catalog.n_items) for events in known]
        )
        of_users = [row for row, request in enumerate(requests) if request.user is not None]
        records[of_users], seen[of_users] = stored.records, stored.seen
        recent: list[History] = []
        if self.engine.window is not None:
            recent = [events[-self.engine.window :] for events in known]
            for row, events in zip(of_users, stored.recent, strict=True):
                recent[row] = events
        return UserStates(records, seen, recent)

    def _states(
        self, users: Sequence[bytes], with_seen: bool, distrusted: Collection[bytes]
    ) -> UserStates:
        """What the store has of users, records that are behind caught up.

        Those that are damaged, or of `distrusted` users, are made anew.
        """
        stored = self.store.read(self.engine.digest, [(user, ()) for user in users], with_seen)
        if distrusted:
            stored = [
                one._replace(record=None, damaged="record") if user in distrusted else one
                for user, one in zip(users, stored, strict=True)
            ]
        records, damaged = records_of(self.engine, stored, self.store.damage)
        before = records["sequence"].copy()
        replayed = catch_up(self.store, self.engine, self.items, users, stored, records)
        if (records["sequence"] != [one.last for one in stored]).any():
            raise LogReplaced
        if replayed:
            events = records["sequence"] - before
            with self._count_lock:
                self.replayed += int(events.sum())
            rows = sorted({*np.flatnonzero(events >= WRITE_BACK).tolist(), *damaged})
            if rows and not with_seen:  # the whole bitmap is written with the record
                return self._states(users, True, distrusted)
            if rows:
                self._write_back(users, stored, records, replayed, rows)
        seen = np.zeros((len(users), self._mask_bytes), np.uint8)
        for mask, one in zip(seen, stored, strict=True):
            bitmap_bytes = np.frombuffer(one.seen, np.uint8)[: len(mask)]  # more: a newer catalog's
            mask[: len(bitmap_bytes)] = bitmap_bytes
        for row, items in replayed.items():
            seen[row] |= as_bits(items, self.catalog.n_items)
        recent: list[History] = []
        if self.engine.window is not None:
            pairs = zip(users, stored, strict=True)
            recent = [self._recent(user, one, self.engine.window) for user, one in pairs]
        return UserStates(records, seen, recent)

    def _write_back(
        self,
        users: Sequence[bytes],
        stored: Sequence[StoredUser],
        records: np.ndarray,
        replayed: dict[int, Ints],
        rows: list[int],
    ) -> None:
        written = records.copy()
        written["version"] = [next_version(one.version) for one in stored]
        puts = [
            Put(
                user=users[row],
                log_id=stored[row].log_id,
                version=stored[row].version,
                record=self.engine.dump(written, row, users[row]),
                seen=bitmap(np.concatenate([seen_items(stored[row].seen), replayed[row]])),
            )
            for row in rows
        ]
        self.store.put(self.engine.digest, puts)

    def _recent(self, user: bytes, stored_user: StoredUser, window: int) -> History:
        """The last known events of a user, as many as the model reads, oldest first."""
        recent: History = []
        end, count = stored_user.last, window
        while end > 0 and len(recent) < window:
            start = max(0, end - count)
            events = read_events(self.store, user, stored_user, start, end - start)
            indices = self.items.find([event.item for event in events])
            moments = self.engine.moments(indices, events)
            recent = [moment for moment in moments if moment[0]] + recent
            end, count = start, 2 * count
        return recent[-window:]


def _of_like_width(wanted: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
    """How many items to search for, and for which of some that want so many, or a quarter at least.

    Who wants few does not wait for those who want many; one search for all is the fastest where
    they want about as many.
    """
    groups: dict[int, list[int]] = {}
    for number, k in enumerate(wanted):
        groups.setdefault((k - 1).bit_length() // 2, []).append(number)
    for some in groups.values():
        yield max(wanted[number] for number in some), some


def _not_finite(vectors: np.ndarray) -> np.ndarray:
    """Rows (n,) of vectors (n, R, D) that are not all finite numbers."""
    finite: np.ndarray = np.isfinite(vectors).all((1, 2))
    return ~finite


def _rows_without_numbers(h: np.ndarray, items: Ints, scores: np.ndarray) -> list[int]:
    """Rows where some scores of items, or what they are of, are no finite numbers.

    Of what is not, an index may make anything.
    """
    if math.isfinite(scores.sum()) and math.isfinite(h.sum()):  # the usual case
        return []
    finite = (np.isfinite(scores) | (items == 0)).all(1) & np.isfinite(h).reshape(len(h), -1).all(1)
    return np.flatnonzero(~finite).tolist()


def _barred_by(catalog: Catalog, table: Callable[[], ItemTable] | None, rule: str) -> np.ndarray:
    """The items for which a rule is not true, as `RecommendRequest.excluded`."""
    if table is None:
        raise UsageError(
            "where is a rule by an item table: open the stream with one, open_stream(…, items=)"
        )
    return rule_bits(catalog, table(), rule)
