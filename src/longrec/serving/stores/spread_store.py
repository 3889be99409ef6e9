"""Users spread over several Redis servers: each user is on one of them, whole.

`redis://one/0,redis://two/0,…`: a user is on the server whose number is the checksum of the user's
id, modulo how many there are; so one of 100 GB becomes several. A call that is about one user asks
one server. What is kept of the store itself is on the first one. Each server notes which one it is
of how many, so that a list in another order, or one that lacks a server, is refused.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing
from functools import partial
from itertools import islice
from typing import Any, TypeVar
from zlib import crc32

from longrec.core.choices import Durability
from longrec.core.errors import DataError, UsageError
from longrec.serving.stores.damage import Damage
from longrec.serving.stores.protocol import (
    Append,
    Appended,
    Event,
    Put,
    Rewrite,
    StoredUser,
    Totals,
    by_part,
)
from longrec.serving.stores.redis_store import RedisStore

A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")
PLACE = "place"
"""What a server's meta calls its place: its number, of how many, and the first one's id."""

LOGS = 40
"""Bits of a log's id that one server counts; Redis's scripts have exact numbers up to 53."""


class SpreadStore:
    """A `Store` of several; see `open_store`, whose errors it has.

    Parameters
    ----------
    urls : of the servers, in their order.
    """

    folder = None

    def __init__(self, urls: Sequence[str], durability: Durability, readonly: bool) -> None:
        self.durability = durability
        with ExitStack() as opened:
            self._stores = [
                opened.enter_context(closing(RedisStore(url, durability, readonly))) for url in urls
            ]
            self.url = ",".join(store.url for store in self._stores)
            if len({store.url for store in self._stores}) < len(self._stores):
                raise UsageError(f"{self.url} names a store twice: give each server once")
            self._check_places(readonly)
            opened.pop_all()
        self.parts = len(self._stores)
        self.damage = Damage(self.url)
        for store in self._stores:
            self.damage.counts.update(store.damage.counts)
            store.damage = self.damage

    def _check_places(self, readonly: bool) -> None:
        """See that all servers are there, and in their order; new ones are told their places."""
        metas = [store.meta() for store in self._stores]
        number = len(metas)
        wanted = [[at, number, metas[0]["id"]] for at in range(number)]
        found = [meta.get(PLACE) for meta in metas]
        if found == wanted:
            return
        fits = all(one in (None, place) for one, place in zip(found, wanted, strict=True))
        if readonly or not fits or any(store.users(b"", 1) for store in self._stores):
            raise DataError(
                f"{self.url}: {_words(found, number)}. Give all servers of one store, in the order "
                "in which it was made; to spread users over others, back the store up and restore "
                "it there"
            )
        for store, place in zip(self._stores, wanted, strict=True):
            store.number_logs_after(place[0] << LOGS)  # no two logs have one id
            store.change_meta(partial(_note_place, place))

    def part_of(self, user: bytes) -> int:
        return crc32(user) % self.parts

    def _of(self, user: bytes) -> RedisStore:
        return self._stores[self.part_of(user)]

    def _each(
        self,
        users: Sequence[bytes],
        asked: Sequence[A],
        ask: Callable[[RedisStore, list[A]], Sequence[B]],
    ) -> list[B]:
        """What each server answers to what is asked of its users, in the order asked."""
        found: list[tuple[int, B]] = []
        for store, numbers in self._parts(users):
            answers = ask(store, [asked[number] for number in numbers])
            found += zip(numbers, answers, strict=True)
        return [answer for _, answer in sorted(found, key=lambda one: one[0])]

    def _parts(self, users: Sequence[bytes]) -> Iterator[tuple[RedisStore, list[int]]]:
        """The servers that have some of these users, and the places of theirs."""
        for at, numbers in by_part(self, users).items():
            yield self._stores[at], numbers

    def read(
        self, digest: str, asked: Sequence[tuple[bytes, Sequence[bytes]]], seen: bool = False
    ) -> list[StoredUser]:
        users = [user for user, _ in asked]
        return self._each(users, asked, lambda store, some: store.read(digest, some, seen))

    def events(self, user: bytes, log_id: int, after: int, limit: int) -> list[Event]:
        return self._of(user).events(user, log_id, after, limit)

    def append(self, digest: str, appends: Sequence[Append]) -> list[Appended]:
        users = [append.user for append in appends]
        return self._each(users, appends, lambda store, some: store.append(digest, some))

    def put(self, digest: str, puts: Sequence[Put]) -> int:
        parts = self._parts([put.user for put in puts])
        return sum(store.put(digest, [puts[at] for at in numbers]) for store, numbers in parts)

    def rewrite(self, rewrites: Sequence[Rewrite]) -> list[bool]:
        users = [rewrite.user for rewrite in rewrites]
        return self._each(users, rewrites, lambda store, some: store.rewrite(some))

    def forget(self, user: bytes) -> bool:
        return self._of(user).forget(user)

    def users(self, after: bytes, limit: int) -> list[bytes]:
        return list(
            islice(heapq.merge(*(store.users(after, limit) for store in self._stores)), limit)
        )

    def meta(self) -> dict[str, Any]:
        return self._stores[0].meta()

    def change_meta(self, change: Callable[[dict[str, Any]], T]) -> T:
        return self._stores[0].change_meta(change)

    def drop(self, digest: str) -> int:
        return sum(store.drop(digest) for store in self._stores)

    def totals(self) -> Totals:
        totals = [store.totals() for store in self._stores]
        records = Counter[str]()
        for one in totals:
            records.update(one.records)
        return Totals(
            sum(one.users for one in totals),
            sum(one.events for one in totals),
            dict(records),
            sum(one.bytes for one in totals),
        )

    def check_ready(self) -> None:
        """See that some server answers: the users of the others are refused one by one."""
        threads = ThreadPoolExecutor(self.parts)
        try:
            asked = [threads.submit(store.check_ready) for store in self._stores]
            errors = []
            for one in as_completed(asked):
                if (error := one.exception()) is None:
                    return
                errors.append(error)
            raise errors[0]
        finally:
            threads.shutdown(wait=False)  # who is away has been waited for long enough

    def compact(self) -> tuple[int, int]:
        sizes = [store.compact() for store in self._stores]
        return sum(before for before, _ in sizes), sum(after for _, after in sizes)

    def inspect(self) -> list[str]:
        return [f"{store.url}: {line}" for store in self._stores for line in store.inspect()]

    def close(self) -> None:
        with ExitStack() as stack:
            for store in self._stores:
                stack.callback(store.close)


def _note_place(place: list[Any], meta: dict[str, Any]) -> None:
    meta[PLACE] = place


def _words(found: Sequence[Any], number: int) -> str:
    """What is wrong with the servers' places."""
    if any(one is None for one in found):
        return "some of these servers are of no store that several hold together"
    if len({(of, first) for _, of, first in found}) > 1:
        return "these servers are of several stores"
    places = ", ".join(str(at + 1) for at, _, _ in found)
    return f"these {number} servers are number {places} of {found[0][1]}"


def open_redis(
    urls: Sequence[str], durability: Durability, readonly: bool
) -> RedisStore | SpreadStore:
    """A store on one server, or on several; of several one alone is refused."""
    if len(urls) > 1:
        return SpreadStore(urls, durability, readonly)
    store = RedisStore(urls[0], durability, readonly)
    if (place := store.meta().get(PLACE)) is not None:
        store.close()
        raise DataError(
            f"{store.url} is server {place[0] + 1} of {place[1]} that hold a store together: give "
            "all of them, with commas between, in their order"
        )
    return store
