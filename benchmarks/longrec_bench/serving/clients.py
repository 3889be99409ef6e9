"""Who asks for a pair of an event and a recommendation: of a stream here, or of `longrec serve`."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from longrec.core.child import stop_child
from longrec.core.choices import Durability
from longrec.core.errors import LongrecError
from longrec.serving.stream.stream import Stream

K = 10
"""Items asked for."""
PATIENCE = 60.0
"""Seconds to wait for an answer."""
START, STOP = 900.0, 40.0
"""Seconds that a server may take to start, and to stop."""
LOG_LINES = 5
"""Last lines of a server's log that are printed when it fails."""

RECEIVED = 1 << 16
"""Bytes read from a socket at once."""
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_METRIC = re.compile(r"^(\w+(?:\{[^}]*\})?) (\S+)$", re.MULTILINE)
_ADDRESS = re.compile(r"http://(127\.0\.0\.1):(\d+)  \(")


class Client(ABC):
    """Asks for one thing after the other, from one thread at a time."""

    def connect(self) -> dict[str, float]:
        """Called before each sample, outside of what is timed; -> `metrics` so far."""
        return {}

    def metrics(self) -> dict[str, float]:
        """What the server counts and times from its start on, if there is one."""
        return {}

    @abstractmethod
    def observe(self, user: str, item: Any, time: int) -> None: ...

    @abstractmethod
    def recommend(self, user: str) -> None: ...


class StreamClient(Client):
    """Calls a stream of this process."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def observe(self, user: str, item: Any, time: int) -> None:
        self._stream.observe(user, item, time)

    def recommend(self, user: str) -> None:
        self._stream.recommend(user, k=K)


class Server:
    """`longrec serve` in a process of its own, on a free port, stopped at the end of a `with`.

    Parameters
    ----------
    run : folder of its recommender.
    url, durability : of its store.
    log : a file for what it writes to standard error.
    cores : that it may use; empty: those of this process.
    plugins : modules of others that register its model and its added score.
    further : options of `longrec serve` besides.

    Attributes
    ----------
    address : host and port, once it is ready.
    """

    address: tuple[str, int]

    def __init__(
        self,
        run: Path,
        url: str,
        durability: Durability,
        log: Path,
        cores: set[int],
        plugins: Sequence[str] = (),
        further: Sequence[str] = (),
    ) -> None:
        self._arguments = [
            *("serve", str(run), "--store", url),
            *("--port", "0", "--durability", durability, "--no-log-requests", "--rate", "1e9"),
            *(word for module in plugins for word in ("--plugin", module)),
            *further,
        ]
        self._log, self._cores, self._clients = log, cores, list[HttpClient]()

    def __enter__(self) -> Server:
        with self._log.open("wb") as log:
            self._process = self._start(log)
        if self._cores:  # a child begins on its parent's one core
            with suppress(OSError):  # it has ended, which `wait` reports
                os.sched_setaffinity(self._process.pid, self._cores)
        return self

    def _start(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "longrec", *self._arguments]
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=log)

    def __exit__(self, *raised: object) -> None:
        for client in self._clients:
            client.close()
        stop_child(self._process, STOP)

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    def client(self, one_request: bool = False) -> HttpClient:
        """One that asks it, closed with it; in one request for a pair if so wished."""
        self._clients.append(OneRequestClient(self) if one_request else HttpClient(self))
        return self._clients[-1]

    def wait(self) -> None:
        """Until it is ready.

        Raises
        ------
        LongrecError
            When it ends before that, or takes too long.
        """
        deadline = time.monotonic() + START
        while (found := _ADDRESS.search(self._read_log())) is None:
            if self._process.poll() is not None:
                raise self.failed()
            if time.monotonic() > deadline:
                raise self.failed(TimeoutError(f"not ready after {START:g} seconds"))
            time.sleep(0.05)
        self.address = found[1], int(found[2])

    def failed(self, error: OSError | None = None) -> LongrecError:
        """What to raise when it does not answer: how it ended, and the end of its log."""
        try:  # a connection breaks a moment before the process has ended
            how = f"ended with status {self._process.wait(1.0)}"
        except subprocess.TimeoutExpired:
            how = f"failed: {error}"
        last = "\n".join(self._read_log().strip().splitlines()[-LOG_LINES:])
        return LongrecError(f"longrec serve {how}" + (f"; its log ends with\n{last}" * bool(last)))

    def _read_log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")


class HttpClient(Client):
    """Asks a server over a socket that stays open.

    It writes and reads HTTP by itself: Python's http.client takes eight times its processor time,
    which would count as the server's where clients share a core.
    """

    def __init__(self, server: Server) -> None:
        self._server, self._socket = server, socket.socket()

    def connect(self) -> dict[str, float]:
        """Connect anew, since servers close what is idle for long, and ask a first time."""
        self.close()
        try:
            self._socket = socket.create_connection(self._server.address, PATIENCE)
        except OSError as error:
            raise self._server.failed(error) from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self.metrics()

    def close(self) -> None:
        self._socket.close()

    def observe(self, user: str, item: Any, time: int) -> None:
        self.send([{"user": user, "item": item, "time": time}])

    def send(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Put events in with one request, all of which must be accepted."""
        answer = json.loads(self._ask("POST", "/v1/events", json.dumps({"events": events})))
        assert answer["accepted"] == len(events), answer

    def recommend(self, user: str) -> None:
        question = json.dumps({"user": user, "k": K})
        answer = json.loads(self._ask("POST", "/v1/recommendations", question))
        assert answer["items"], answer

    def metrics(self) -> dict[str, float]:
        """What the server counts and times from its start on, by name and labels."""
        text = self._ask("GET", "/metrics").decode()
        return {name: float(value) for name, value in _METRIC.findall(text)}

    def _ask(self, method: str, path: str, text: str = "") -> bytes:
        """The body of an answer."""
        body, (host, port) = text.encode(), self._server.address
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: {host}:{port}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        try:
            self._socket.sendall(head.encode() + body)
            found = b""
            while b"\r\n\r\n" not in found:
                found += self._received()
            answered, _, answer = found.partition(b"\r\n\r\n")
            length = _LENGTH.search(answered)
            if length is None:
                raise ConnectionError("an answer without a length")
            while len(answer) < int(length[1]):
                answer += self._received()
        except OSError as error:
            raise self._server.failed(error) from error
        if answered[9:12] != b"200":
            raise LongrecError(f"{path} was answered {answered[9:12].decode()}: {answer.decode()}")
        return answer

    def _received(self) -> bytes:
        """What has come, once something has."""
        part = self._socket.recv(RECEIVED)
        if not part:
            raise ConnectionError("the connection was closed amid an answer")
        return part


class OneRequestClient(HttpClient):
    """The same in one request: an event waits for the question that comes after it."""

    def observe(self, user: str, item: Any, time: int) -> None:
        self._event = {"user": user, "item": item, "time": time}

    def recommend(self, user: str) -> None:
        question = json.dumps({"events": [self._event], "recommend": {"user": user, "k": K}})
        answer = json.loads(self._ask("POST", "/v1/events", question))
        assert answer["accepted"] == 1, answer
        assert answer["recommended"]["items"], answer
