"""Clients: who asks for a pair of an event and a recommendation, in this process or over HTTP."""

from __future__ import annotations

import io
import json
import re
import socket
from typing import IO, Any, Protocol

from longrec.core.errors import LongrecError
from longrec.serving.stream.stream import Stream
from longrec_bench.serving.server import Server

K = 10
"""Items asked for."""
PATIENCE = 60.0
"""Seconds to wait for an answer."""

_SAMPLE = re.compile(r"^(\w+(?:\{[^}]*\})?) (\S+)$", re.MULTILINE)


class Client(Protocol):
    """Asks for one thing after the other, from one thread at a time."""

    def connect(self) -> None:
        """Called before each sample, outside of what is timed."""

    def observe(self, user: str, item: Any, time: int) -> None: ...

    def recommend(self, user: str) -> None: ...


class StreamClient:
    """Calls a stream."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def connect(self) -> None:
        """Nothing to do."""

    def observe(self, user: str, item: Any, time: int) -> None:
        self._stream.observe(user, item, time)

    def recommend(self, user: str) -> None:
        self._stream.recommend(user, k=K)


class HttpClient:
    """Asks a server over a socket that stays open.

    It writes and reads HTTP by itself: Python's http.client takes eight times its processor time,
    which would count as the server's where clients share a core.

    Attributes
    ----------
    metrics : the server's, by name and labels, as they were when this connected.
    """

    def __init__(self, server: Server) -> None:
        self._server, self._socket = server, socket.socket()
        self._answers: IO[bytes] = io.BytesIO()
        self._headers = ""
        self.metrics: dict[str, float] = {}

    def connect(self) -> None:
        """Connect anew, since servers close what is idle for long, and ask a first time."""
        self.close()
        try:
            self._socket = socket.create_connection(self._server.address, PATIENCE)
        except OSError as error:
            raise self._server.failed(error) from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answers = self._socket.makefile("rb")
        host, port = self._server.address
        self._headers = f"host: {host}:{port}\r\ncontent-type: application/json\r\n"
        self.metrics = self.read_metrics()

    def close(self) -> None:
        self._answers.close()
        self._socket.close()

    def observe(self, user: str, item: Any, time: int) -> None:
        event = {"user": user, "item": item, "time": time}
        answer = json.loads(self._ask("POST", "/v1/events", json.dumps({"events": [event]})))
        assert answer["accepted"] == 1, answer

    def recommend(self, user: str) -> None:
        question = json.dumps({"user": user, "k": K})
        answer = json.loads(self._ask("POST", "/v1/recommendations", question))
        assert answer["items"], answer

    def read_metrics(self) -> dict[str, float]:
        """What the server counts and times, from its start on."""
        text = self._ask("GET", "/metrics").decode()
        return {name: float(value) for name, value in _SAMPLE.findall(text)}

    def _ask(self, method: str, path: str, text: str = "") -> bytes:
        """The body of an answer."""
        body = text.encode()
        head = f"{method} {path} HTTP/1.1\r\n{self._headers}content-length: {len(body)}\r\n\r\n"
        try:
            self._socket.sendall(head.encode() + body)
            status, length = self._answers.readline()[9:12].decode(), None
            while (line := self._answers.readline()).strip():
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            if line and length is None:
                raise ConnectionError("an answer without a length")
            answer = self._answers.read(length or 0)
            if not line or len(answer) < (length or 0):
                raise ConnectionError("the connection was closed amid an answer")
        except OSError as error:
            raise self._server.failed(error) from error
        if status != "200":
            raise LongrecError(f"{path} was answered {status}: {answer.decode()}")
        return answer
