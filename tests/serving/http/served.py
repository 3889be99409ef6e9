"""A server in this process, in a thread of its own, with a real socket; and one as a child."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from forking import Forked, run_command
from serving.small_streams import small_stream

from longrec.serving.http.app import Server
from longrec.serving.http.connections import Connections
from longrec.serving.http.keys import Keys
from longrec.serving.http.server import HttpServer
from longrec.serving.http.settings import Settings
from longrec.serving.stream.stream import Stream


@dataclass
class LocalServer:
    """A server at `url`, and its parts."""

    url: str
    server: Server
    client: httpx.Client
    loop: asyncio.AbstractEventLoop

    def post(self, path: str, body: Any, **more: Any) -> httpx.Response:
        return self.client.post(path, json=body, **more)


def local_server(
    case: str,
    path: Path,
    keys: str = "",
    settings: dict[str, Any] | None = None,
    most: int = 1000,
) -> AbstractContextManager[LocalServer]:
    """A server of a small model with random weights, its store in a folder; drained at the end.

    `most`: connections that may be open at once.
    """
    return server_of(small_stream(case, path / "users"), path, keys, settings, most)


@contextmanager
def server_of(
    stream: Stream,
    path: Path,
    keys: str = "",
    settings: dict[str, Any] | None = None,
    most: int = 1000,
) -> Iterator[LocalServer]:
    """A server of a stream, which it closes; drained at the end."""
    chosen = Settings(run=path / "run", store=str(path / "users"), **(settings or {}))
    with _environment(keys):
        known = Keys(chosen.keys)
    server = Server(chosen, stream, known)
    sock = socket.create_server(("127.0.0.1", 0))
    connections = Connections(most)
    running = HttpServer(server.app, sock, connections, chosen.timeout)
    loops: list[asyncio.AbstractEventLoop] = []

    async def run() -> None:
        loops.append(asyncio.get_running_loop())
        await running.serve()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    try:
        with httpx.Client(base_url=url, timeout=30) as client:
            while not running.started:
                assert thread.is_alive()
                threading.Event().wait(0.005)
            yield LocalServer(url, server, client, loops[0])
    finally:
        running.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the server does not end"


@contextmanager
def _environment(keys: str) -> Iterator[None]:
    before = os.environ.get("LONGREC_API_KEYS")
    os.environ["LONGREC_API_KEYS"] = keys
    try:
        yield
    finally:
        if before is None:
            del os.environ["LONGREC_API_KEYS"]
        else:
            os.environ["LONGREC_API_KEYS"] = before


class ServeProcess:
    """`longrec serve` as a process; what it writes is kept in `output`."""

    def __init__(self, run: Path, store: str, *options: str, **environment: str) -> None:
        self._begin(
            run_command(
                *("--threads", 1, "serve", run, "--store", store, "--port", 0, *options),
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, **environment},
            )
        )

    def _begin(self, process: Forked) -> None:
        self.process = process
        self.output: list[str] = []
        self._started = threading.Event()
        self.url = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.output.append(line)
            found = re.match(r"(http://\S+:\d+)  ", line)
            if found:
                self.url = found[1]
            if '"serving"' in line:
                self._started.set()
        self._started.set()

    def __enter__(self) -> ServeProcess:
        assert self._started.wait(60), self.output
        assert self.url, self.output
        self.client = httpx.Client(base_url=self.url, timeout=30)
        return self

    def __exit__(self, *raised: object) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(30)
        self._reader.join(10)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end; -> its exit status."""
        self.process.send_signal(number)
        return self.process.wait(60)
