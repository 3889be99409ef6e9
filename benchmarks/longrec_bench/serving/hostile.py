"""Kinds of hostile clients of `longrec serve`; a process of its own lets one kind act.

    python -m longrec_bench.serving.hostile HOST PORT KIND CONNECTIONS [REQUESTS]

It goes on until its standard input is closed, or that many requests are answered, then prints how
many answers of which status it got, as JSON. The kind `mixed` asks anything at random.
"""

from __future__ import annotations

import json
import random
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from longrec_bench.serving.attacker import ITEMS, MEBI, Attack, ask_all, asks, post, request
from longrec_bench.serving.fuzz import made_up

DRIP = 0.05
"""Seconds between two bytes of who is slow."""
HISTORY = [number % ITEMS + 1 for number in range(10_000)]


class Kind(NamedTuple):
    """What a kind of hostile client does.

    does : in words.
    act : one connection's life, called again and again.
    """

    does: str
    act: Callable[[Attack], None]


def drips(begin: bytes, drop: bytes) -> Callable[[Attack], None]:
    """Begins a request and goes on with a few bytes at a time."""

    def act(attack: Attack) -> None:
        with attack.connect() as sock:
            sock.sendall(begin)
            while not attack.stopped.wait(DRIP):
                sock.sendall(drop)

    return act


def never_reads(attack: Attack) -> None:
    """Asks for large answers and reads none."""
    with attack.connect() as sock:
        while not attack.stopped.is_set():
            sock.sendall(request("GET", "/openapi.json"))


def sends_ahead(attack: Attack) -> None:
    """Sends thousands of requests before it reads an answer."""
    with attack.connect() as sock:
        sock.sendall(request("GET", "/healthz") * 5000)
        while sock.recv(MEBI):
            attack.count("read")


def comes_and_goes(attack: Attack) -> None:
    """Connects, and leaves at once."""
    attack.connect().close()
    attack.count("connected")


def holds_many(attack: Attack) -> None:
    """Holds many connections and sends nothing on them, or a half of a head."""
    held = []
    try:
        for number in range(250):
            held.append(attack.connect())
            if number % 2:
                held[-1].sendall(b"GET /v1/model HTTP/1.1\r\nhost: loc")
        attack.stopped.wait(3)
    finally:
        for sock in held:
            sock.close()
    attack.count("held")


def new_each_time(make: Callable[[int], bytes]) -> Callable[[Attack], None]:
    """Asks something new each time."""

    def act(attack: Attack) -> None:
        ask_all(attack, (make(random.getrandbits(60)) for _ in iter(int, 1)))

    return act


def _event(number: int, **more: object) -> dict[str, object]:
    return {"user": "hostile", "item": number % ITEMS + 1, "time": number, **more}


UNKNOWN = {f"f{number}": 0 for number in range(60_000)}
CHUNKED = "POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
CHUNKED += "transfer-encoding: chunked\r\n\r\n"
RECOMMEND, EVENTS = "/v1/recommendations", "/v1/events"
KINDS: dict[str, Kind] = {
    "healthz flood": Kind("asks /healthz", asks(request("GET", "/healthz"))),
    "readyz flood": Kind("asks /readyz", asks(request("GET", "/readyz"))),
    "metrics flood": Kind("asks /metrics", asks(request("GET", "/metrics"))),
    "model flood": Kind("asks /v1/model and the pages", asks(
        *(request("GET", path) for path in ("/v1/model", "/", "/docs", "/openapi.json")))),
    "unknown paths": Kind("asks for another path each time", new_each_time(
        lambda n: request("GET", f"/{n:x}"))),
    "unknown users": Kind("asks for another user each time", new_each_time(
        lambda n: request("GET", f"/v1/users/{n:x}"))),
    "new users": Kind("logs an event of another user each time", new_each_time(
        lambda n: post(EVENTS, {"events": [_event(n % ITEMS) | {"user": f"new{n:x}"}]}))),
    "history of 10,000": Kind("sends 10,000 items along", asks(
        post(RECOMMEND, {"history": HISTORY}))),
    "20 histories of 5,000": Kind("sends 20 histories along, 100,000 items in all", asks(
        post(RECOMMEND, {"histories": [HISTORY[:5000]] * 20}))),
    "k = 1,000": Kind("wants 1,000 items", asks(post(RECOMMEND, {"history": [1], "k": 1000}))),
    "1,000 users, k = 100": Kind("wants 100 items for each of 1,000 users", asks(
        post(RECOMMEND, {"users": [f"u{n}" for n in range(1000)], "k": 100}))),
    "among and without 10,000": Kind("names 10,000 items, and 10,000 that are left out", asks(
        post(RECOMMEND, {"history": [1], "k": 1000, "among": HISTORY, "exclude": HISTORY}))),
    "1,000 events": Kind("logs 1,000 events of one user at once", asks(
        post(EVENTS, {"events": [_event(n) for n in range(1000)]}))),
    "similar, k = 1,000": Kind("asks for 1,000 items like one", asks(
        request("GET", "/v1/items/5/similar?k=1000"))),
    "explanation of 10,000": Kind("wants 10,000 items explained", asks(
        post("/v1/explanations", {"history": HISTORY, "item": 5, "top": 1000}))),
    "10,000 wrong ids": Kind("sends a list of 10,000 nulls, or of as many objects", asks(
        post(RECOMMEND, {"history": [None] * 10_000}),
        post(RECOMMEND, {"user": "u", "exclude": [{}] * 10_000}))),
    "unknown fields": Kind("sends 60,000 unknown fields, or 60 in each of 1,000 events", asks(
        post(EVENTS, UNKNOWN), post(EVENTS, {"events": [UNKNOWN]}),
        post(EVENTS, {"events": [dict(list(UNKNOWN.items())[:60])] * 1000}))),
    "deep JSON": Kind("opens half a million lists or objects", asks(
        post(EVENTS, b"[" * (MEBI // 2)), post(EVENTS, b'{"events":' + b"[" * (MEBI // 2)),
        post(EVENTS, b'{"a":' * (MEBI // 8)))),
    "a mebibyte of lists": Kind("sends 300,000 empty lists", asks(
        post(EVENTS, b'{"events":[' + b"[]," * 300_000 + b"[]]}"))),
    "a mebibyte of digits": Kind("sends a number, or a text, of a million characters", asks(
        post(RECOMMEND, b'{"k":' + b"9" * 1_000_000 + b"}"),
        post(RECOMMEND, b'{"user":"' + b"x" * 1_000_000 + b'"}'))),
    "no JSON": Kind("sends bytes that are no text, or compressed", asks(
        post(EVENTS, b"\xff" * 10_000),
        request("POST", EVENTS, b"\x1f\x8b" * 5000, "content-encoding: gzip"))),
    "too large": Kind("announces a gibibyte", asks(
        request("POST", EVENTS, None, "content-length: 1073741824", "expect: 100-continue"))),
    "chunks of a byte": Kind("sends a body byte by byte", lambda attack: _send(
        attack, CHUNKED.encode() + b"1\r\n \r\n" * 100_000)),
    "many headers": Kind("sends thousands of header lines", lambda attack: _send(
        attack, b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 50_000)),
    "sent ahead": Kind("sends 5,000 requests before it reads an answer", sends_ahead),
    "no HTTP": Kind("sends bytes that are no HTTP", lambda attack: _send(
        attack, b"\0\1\2\r\n\r\n" * 100)),
    "slow head": Kind("sends a head a byte at a time", drips(b"GET / HTTP/1.1\r\nx: ", b"x")),
    "slow body": Kind("sends a body a byte at a time", drips(
        request("POST", EVENTS, None, "content-type: application/json", "content-length: 9999"),
        b" ")),
    "never reads": Kind("asks for large answers and reads none", never_reads),
    "comes and goes": Kind("connects and leaves", comes_and_goes),
    "holds 250": Kind("holds 250 connections each and sends nothing", holds_many),
}  # fmt: skip


def _send(attack: Attack, sent: bytes) -> None:
    """Send bytes on a connection of their own, and read what comes."""
    with attack.connect() as sock:
        with suppress(OSError):
            sock.sendall(sent)
        found = bytearray()
        with suppress(OSError):
            while part := sock.recv(MEBI):
                found += part
        attack.count(bytes(found[9:12]).decode() or "closed")


_MADE_UP = threading.local()


def mixed(attack: Attack) -> None:
    """Valid and broken requests of all kinds; those of each thread are always the same."""
    if not hasattr(_MADE_UP, "requests"):  # they go on when a connection was closed
        _MADE_UP.requests = made_up(random.Random(threading.current_thread().name))
    ask_all(attack, _MADE_UP.requests)


def main() -> None:
    """Attack until told to end, and print what came of it."""
    host, port, name, connections, *most = sys.argv[1:]
    attack = Attack((host, int(port)), int(most[0]) if most else None)
    if not most:
        threading.Thread(target=_stop_when_told, args=(attack,)).start()
    attack.act_until_stopped(mixed if name == "mixed" else KINDS[name].act, int(connections))
    print(json.dumps(attack.answers))


def _stop_when_told(attack: Attack) -> None:
    sys.stdin.read()
    attack.stopped.set()


if __name__ == "__main__":
    main()
