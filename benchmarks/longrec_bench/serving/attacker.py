"""Connections of hostile clients: they need nothing but Python, and as little of its time as goes.

Requests are bytes that are made beforehand, and answers are read no further than must be.
"""

from __future__ import annotations

import json
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import cycle

PATIENCE, LAST = 60.0, 5.0
"""Seconds to wait for an answer, and for the last one in the end."""
MEBI = 1 << 20
ITEMS = 3000
"""Ids of items, from 1 on, that requests name: a catalog may have fewer or more."""


class Attack:
    """Connections to a server, and what came of them.

    Parameters
    ----------
    address : host and port.
    most : answers after which it ends, or None.
    """

    def __init__(self, address: tuple[str, int], most: int | None = None) -> None:
        self.address, self._most = address, most
        self.stopped, self.answers = threading.Event(), Counter[str]()
        self._lock = threading.Lock()

    def connect(self) -> socket.socket:
        sock = socket.create_connection(self.address, PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def count(self, what: str) -> None:
        """One more answer, or what else happened."""
        with self._lock:
            self.answers[what] += 1
            if self._most is not None and sum(self.answers.values()) >= self._most:
                self.stopped.set()

    def act_until_stopped(self, act: Callable[[Attack], None], connections: int) -> None:
        """Let so many connections act, again and again, until it is stopped."""

        def go() -> None:
            while not self.stopped.is_set():
                try:
                    act(self)
                except OSError:
                    self.count("closed")

        threads = [threading.Thread(target=go, daemon=True) for _ in range(connections)]
        for thread in threads:
            thread.start()
        self.stopped.wait()
        for thread in threads:
            thread.join(LAST)


def request(method: str, path: str, body: bytes | None = None, *headers: str) -> bytes:
    """A request's bytes."""
    lines = [f"{method} {path} HTTP/1.1", "host: localhost", *headers]
    if body is not None:
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


def post(path: str, body: object) -> bytes:
    """A request with a body: JSON of a value, or bytes as they are."""
    return request("POST", path, body if isinstance(body, bytes) else json.dumps(body).encode())


def answer(sock: socket.socket, left: bytearray) -> str:
    """The status of the next answer; what was read beyond it stays in `left`."""
    while (end := left.find(b"\r\n\r\n")) < 0:
        _receive(sock, left)
    head = bytes(left[:end]).lower()
    at = head.find(b"content-length: ") + 16
    length = end + 4 + int(head[at:].split(b"\r", 1)[0])
    while len(left) < length:
        _receive(sock, left)
    del left[:length]
    if b"connection: close" in head:
        raise ConnectionResetError
    return head[9:12].decode()


def _receive(sock: socket.socket, left: bytearray) -> None:
    part = sock.recv(MEBI)
    if not part:
        raise ConnectionResetError
    left += part


def asks(*requests: bytes) -> Callable[[Attack], None]:
    """Asks one thing after the other as fast as it is answered."""
    return lambda attack: ask_all(attack, cycle(requests))


def ask_all(attack: Attack, requests: Iterator[bytes]) -> None:
    """Ask until stopped, on one connection."""
    with attack.connect() as sock:
        left = bytearray()
        for one in requests:
            if attack.stopped.is_set():
                return
            sock.sendall(one)
            try:
                status = answer(sock, left)
            except ConnectionResetError:
                attack.count("closed")
                return
            attack.count(status)
