"""The best items of users, from their records as they stand."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from longrec.data.batches import Ints
from longrec.errors import UsageError
from longrec.retrieval.exact import top_k
from longrec.serving.catchup import bitmap, bits, catch_up, records_of
from longrec.serving.ids import ItemIndex, item_key
from longrec.serving.keeping.walk import LogChanged
from longrec.serving.logs import restless
from longrec.serving.state.engine import Engine
from longrec.serving.stores.interface import Kept, Put, Store, version_of

if TYPE_CHECKING:
    from longrec.recommender import Recommender

LONG = 32
"""Replayed events from which a record that has caught up is written back."""
TRIES = 20
"""How often a user is read again whose log was replaced while it was read."""


class Ranked(NamedTuple):
    """The best items of n users.

    items : (n, k) int64 item indices, best first; 0 where they ran out.
    scores : (n, k) float32, -inf there.
    personal : (n,) bool; False: no known events, so popular items.
    """

    items: Ints
    scores: np.ndarray
    personal: np.ndarray


class Standing(NamedTuple):
    """Where users stand: what is kept, records at the end of their logs, and items on the way."""

    kept: list[Kept]
    records: np.ndarray
    met: dict[int, Ints]


class Ranker:
    """Ranks items for users of a store; for any number of threads."""

    def __init__(
        self, recommender: Recommender, store: Store, engine: Engine, items: ItemIndex
    ) -> None:
        self.model, self.catalog = recommender.model, recommender.catalog
        self.store, self.engine, self.items = store, engine, items
        self.replayed, self._counting = 0, threading.Lock()
        self._device = self.model.device  # asking for it takes longer than ranking

    def rank(
        self,
        users: Sequence[bytes],
        k: int,
        exclude: Iterable[Any],
        among: Iterable[Any] | None,
        exclude_seen: bool,
    ) -> Ranked:
        """The k best items of each user; see `Stream.recommend`."""
        barred = self._barred(exclude, among)
        for _ in range(TRIES):
            try:
                return self._rank(users, k, barred, exclude_seen)
            except LogChanged:
                continue
        raise restless(self.store)

    def _rank(
        self, users: Sequence[bytes], k: int, barred: np.ndarray | None, exclude_seen: bool
    ) -> Ranked:
        kept, records, met = self._standing(users, exclude_seen)
        personal = records["sequence"] > records["skipped"]
        tails = None
        if self.engine.window is not None:
            tails = [self._tail(user, one) for user, one in zip(users, kept, strict=True)]
            personal = np.array([len(tail) > 0 for tail in tails], bool)
            tails = [tail for tail in tails if tail]
        width = min(k, self.catalog.n_items)
        if len(users) and personal.all():
            return Ranked(*self._best(kept, records, tails, met, barred, k, exclude_seen), personal)
        items = np.zeros((len(users), width), np.int64)
        scores = np.full((len(users), width), -np.inf, np.float32)
        warm = np.flatnonzero(personal)
        if len(warm):
            chosen = [kept[row] for row in warm]
            on_way = {new: met[row] for new, row in enumerate(warm.tolist()) if row in met}
            items[warm], scores[warm] = self._best(
                chosen, records[warm], tails, on_way, barred, k, exclude_seen
            )
        popular = self.catalog.popular
        if barred is not None:
            popular = popular[~barred[popular]]
        popular = popular[:width]
        items[~personal, : len(popular)] = popular
        scores[~personal, : len(popular)] = self.catalog.counts[popular - 1]
        return Ranked(items, scores, personal)

    def _best(
        self,
        kept: Sequence[Kept],
        records: np.ndarray,
        tails: list[list[tuple[int, int]]] | None,
        met: dict[int, Ints],
        barred: np.ndarray | None,
        k: int,
        exclude_seen: bool,
    ) -> tuple[Ints, np.ndarray]:
        """The k best items of users with known events."""
        h = self.engine.read(records, tails).to(self._device)
        size, parts = self.catalog.n_items + 1, []
        for row, one in enumerate(kept):
            out = barred
            if exclude_seen:
                out = bits(one.seen, size)
                if row in met:
                    out[met[row]] = True
                if barred is not None:
                    out |= barred
            parts.append(np.zeros(0, np.int64) if out is None else np.flatnonzero(out))
        numbers = [len(part) for part in parts]
        rows = torch.from_numpy(np.repeat(np.arange(len(parts)), numbers))
        excluded = torch.from_numpy(parts[0] if len(parts) == 1 else np.concatenate(parts))
        found = top_k(self.model, h, k, rows, excluded)
        return found.items.numpy(), found.scores.float().numpy()

    def _barred(self, exclude: Iterable[Any], among: Iterable[Any] | None) -> np.ndarray | None:
        """Item indices not to be recommended to anyone, as booleans (n_items + 1,)."""
        out = self._indices(exclude, "exclude")
        if among is None and not out:
            return None
        barred = np.full(self.catalog.n_items + 1, among is not None)
        if among is not None:
            barred[self._indices(among, "among")] = False
        barred[out] = True
        return barred

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

    def _tail(self, user: bytes, kept: Kept) -> list[tuple[int, int]]:
        """The last known events of a user, as many as the model reads, oldest first."""
        window = self.engine.window or 0
        tail: list[tuple[int, int]] = []
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
