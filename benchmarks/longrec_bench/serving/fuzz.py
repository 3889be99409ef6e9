"""Requests made up at random, valid and broken ones of every route; of a seed always the same."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from longrec_bench.serving.attacker import ITEMS, post, request

POST = "/v1/events", "/v1/recommendations", "/v1/similar", "/v1/explanations"
PAGES = "/", "/docs", "/openapi.json", "/metrics", "/v1/model", "/healthz", "/readyz", *POST
JUNK: list[Any] = [
    *(None, {}, [], True, 1.5, "", "é" * 500, -1, 10**30, {"a": {"b": []}}, [[]], "x" * 5000),
    "\ud800",
]
KNOWN_USERS = 300
"""Users who come again and again; others come once."""


def made_up(rng: random.Random) -> Iterator[bytes]:
    """Requests without end."""
    makers: list[Callable[[_Maker], bytes]] = [
        *(_Maker.events, _Maker.broken_events, _Maker.columns, _Maker.recommendation),
        *(_Maker.recommendations, _Maker.history, _Maker.histories, _Maker.among, _Maker.broken),
        *(_Maker.user, _Maker.forget, _Maker.similar, _Maker.similar_lists, _Maker.explanation),
        *(_Maker.page, _Maker.no_json),
    ]
    maker = _Maker(rng)
    while True:
        yield rng.choice(makers)(maker)


class _Maker:
    """Makes requests of each kind."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def _user(self) -> Any:
        rng = self._rng
        known = rng.randrange(KNOWN_USERS)
        return rng.choice([f"u{known}", known, f"new{rng.randrange(10**9)}"])

    def _item(self) -> Any:
        rng = self._rng
        item = rng.randrange(1, 2 * ITEMS)
        return rng.choice([item, item, str(item), "x" * rng.randrange(1, 401), item * 10**9])

    def _items(self, most: int) -> list[Any]:
        """Mostly few of them."""
        return [self._item() for _ in range(int(most * self._rng.random() ** 3))]

    def _event(self) -> dict[str, Any]:
        number = self._rng.choice([None, f"e{self._rng.randrange(10**9)}"])
        time = self._rng.randrange(2 * 10**9)
        return {"user": self._user(), "item": self._item(), "time": time, "event_id": number}

    def _some(self) -> range:
        return range(self._rng.choice([1, 1, 1, 5, 50, 300]))

    def events(self) -> bytes:
        return post(POST[0], {"events": [self._event() for _ in self._some()]})

    def broken_events(self) -> bytes:
        fields = "user", "item", "time", "event_id", "columns", f"f{self._rng.randrange(10**6)}"
        events = [
            self._event() | {self._rng.choice(fields): self._rng.choice(JUNK)} for _ in self._some()
        ]
        return post(POST[0], {"events": events})

    def columns(self) -> bytes:
        rng = self._rng
        columns = {
            f"c{rng.randrange(50)}": rng.choice(["a", 1, 2.5, True])
            for _ in range(rng.randrange(40))
        }
        return post(POST[0], {"events": [self._event() | {"columns": columns}]})

    def recommendation(self) -> bytes:
        return post(POST[1], {"user": self._user(), "k": self._rng.choice([1, 10, 100, 1000])})

    def recommendations(self) -> bytes:
        users = [self._user() for _ in range(self._rng.randrange(1, 100))]
        return post(POST[1], {"users": users, "k": self._rng.randrange(1, 50)})

    def history(self) -> bytes:
        return post(POST[1], {"history": self._items(10_001), "k": self._rng.randrange(1, 20)})

    def histories(self) -> bytes:
        histories = [self._items(500) for _ in range(self._rng.randrange(1, 30))]
        return post(POST[1], {"histories": histories, "k": 5})

    def among(self) -> bytes:
        among = self._rng.choice([None, self._items(10_000)])
        return post(POST[1], {"user": self._user(), "exclude": self._items(10_000), "among": among})

    def broken(self) -> bytes:
        rng = self._rng
        fields = "user", "history", "users", "histories", "k", "exclude", "among"
        values = rng.choice(JUNK), [rng.choice(JUNK) for _ in range(rng.choice([1, 10, 2000]))]
        return post(POST[1], {rng.choice(fields): rng.choice(values) for _ in range(3)})

    def user(self) -> bytes:
        limit = self._rng.choice([0, 10, 1000, -1, "x"])
        return request("GET", f"/v1/users/u{self._rng.randrange(2 * KNOWN_USERS)}?limit={limit}")

    def forget(self) -> bytes:
        return request("DELETE", f"/v1/users/u{self._rng.randrange(KNOWN_USERS)}")

    def similar(self) -> bytes:
        k = self._rng.choice([1, 10, 1000, 2000])
        return request("GET", f"/v1/items/{self._rng.randrange(2 * ITEMS)}/similar?k={k}")

    def similar_lists(self) -> bytes:
        return post(POST[2], {"items": self._items(300), "k": self._rng.randrange(1, 100)})

    def explanation(self) -> bytes:
        item, top = self._rng.randrange(1, 2 * ITEMS), self._rng.randrange(1, 1001)
        return post(POST[3], {"history": self._items(3000), "item": item, "top": top})

    def page(self) -> bytes:
        path = self._rng.choice([*PAGES, f"/x{self._rng.randrange(10**9)}"])
        return request(self._rng.choice(["GET", "POST", "PUT", "DELETE", "PATCH"]), path)

    def no_json(self) -> bytes:
        rng = self._rng
        body = rng.choice(
            [
                *(b"{", b"", b"null", rng.randbytes(rng.randrange(1, 5000))),
                *(b"[" * rng.randrange(1, 200_000), b'{"a":' * rng.randrange(1, 20_000)),
                b"[" + b"[]," * rng.randrange(1, 300_000) + b"1]",
                json.dumps({f"f{n}": 0 for n in range(rng.randrange(1, 50_000))}).encode(),
                b"9" * rng.randrange(1, 10_000),
                b'{"events":[' + b"null," * rng.randrange(1, 100_000) + b"1]}",
            ]
        )
        return post(rng.choice(POST), body)
