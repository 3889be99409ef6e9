"""Clients: who asks for a pair, in this process or over HTTP."""

from __future__ import annotations

import json
import re
import socket
from typing import Any, Protocol

from longrec.core.errors import LongrecError
from longrec.serving.stream.stream import Stream
from longrec_bench.server import Server

K = 10
"""Items asked for."""
PATIENCE = 60.0
"""Seconds to wait for an answer."""

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_SAMPLE = re.compile(r"^(\w+(?:\{[^}]*\})?) (\S+)$", re.MULTILINE)


class Client(Protocol):
    """Asks for one thing after the other, from one thread at a time."""

    def ready(self) -> None:
        """Called before each burst, outside of what is timed."""

    def observe(self, user: str, item: Any, time: int) -> None: ...

    def recommend(self, user: str) -> None: ...


class InProcess:
    """Calls a stream."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def ready(self) -> None:
        """Nothing to do."""

    def observe(self, user: str, item: Any, time: int) -> None:
        self._stream.observe(user, item, time)

    def recommend(self, user: str) -> None:
        self._stream.recommend(user, k=K)


class Connection:
    """Asks a server over a socket that stays open, with as little work of its own as that takes.

    Attributes
    ----------
    metrics : the server's, by name and labels, as it told them when this became ready.
    """

    def __init__(self, server: Server) -> None:
        self._server, self._socket = server, socket.socket()
        self._head = ""
        self.metrics: dict[str, float] = {}

    def ready(self) -> None:
        """Connect anew, since servers close what is idle for long, and ask a first time."""
        self.close()
        try:
            self._socket = socket.create_connection(self._server.address, PATIENCE)
        except OSError as error:
            raise self._server.failed(error) from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        host, port = self._server.address
        self._head = f"HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: application/json\r\n"
        self.metrics = self.ask_metrics()

    def close(self) -> None:
        self._socket.close()

    def observe(self, user: str, item: Any, time: int) -> None:
        event = {"user": user, "item": item, "time": time}
        done = json.loads(self._ask("POST", "/v1/events", json.dumps({"events": [event]})))
        assert done["accepted"] == 1, done

    def recommend(self, user: str) -> None:
        wish = json.dumps({"user": user, "k": K})
        found = json.loads(self._ask("POST", "/v1/recommendations", wish))
        assert found["items"], found

    def ask_metrics(self) -> dict[str, float]:
        """What the server counts and times, from its start on."""
        text = self._ask("GET", "/metrics").decode()
        return {name: float(value) for name, value in _SAMPLE.findall(text)}

    def _ask(self, method: str, path: str, text: str = "") -> bytes:
        """The body of an answer."""
        body = text.encode()
        head = f"{method} {path} {self._head}content-length: {len(body)}\r\n\r\n"
        try:
            self._socket.sendall(head.encode() + body)
            data = self._socket.recv(1 << 16)
            while (end := data.find(b"\r\n\r\n")) < 0:
                data += self._more()
            length = _LENGTH.search(data, 0, end)
            if length is None:
                raise ConnectionError(f"an answer without a length: {data[:end].decode()}")
            whole = end + 4 + int(length[1])
            while len(data) < whole:
                data += self._more()
        except OSError as error:
            raise self._server.failed(error) from error
        if data[9:12] != b"200":
            raise LongrecError(f"{path} was answered {data[9:12].decode()}: {data[end:].decode()}")
        return data[end + 4 :]

    def _more(self) -> bytes:
        data = self._socket.recv(1 << 16)
        if not data:
            raise ConnectionError("the connection was closed amid an answer")
        return data
