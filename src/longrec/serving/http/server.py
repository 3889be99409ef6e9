"""The process of `longrec serve`: its socket, its signals, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from longrec.core.errors import LongrecError, UsageError
from longrec.data.histories import open_histories
from longrec.serving.http import access_log
from longrec.serving.http.app import Server
from longrec.serving.http.errors import problem
from longrec.serving.http.keys import VARIABLE, Keys
from longrec.serving.http.service import open_stream
from longrec.serving.http.settings import Settings
from longrec.serving.http.store_work import Need, need_of
from longrec.serving.stream.stream import Stream

SWITCH = 0.0005
"""Seconds after which a thread must let another one go on: the default, 5 ms, is long here."""
OPEN_FILES, SPARE = 16_384, 256
"""Files that may be open at once, and those that are no connections."""
HEAD = 64 << 10
"""Bytes of a request's head at most."""
LINGER = 2.0
"""Seconds that a client may go on sending after it was refused."""
DRAIN = 30
"""Seconds that requests under way may take after the server was told to stop."""


def serve(
    settings: Settings,
    progress: Callable[[float, float, str], None] | None = None,
    ready: Callable[[str, Stream, Need | None], None] | None = None,
) -> None:
    """Serve until a signal ends it: TERM or INT drain and stop, HUP changes the model.

    Parameters
    ----------
    settings : see `Settings`.
    progress : called with (done, of all, what) while an index is built.
    ready : called with the address, the stream, and what its store needs, once requests are taken.

    Raises
    ------
    UsageError
        When others could reach it without a key.
    LongrecError
        When run, store, histories, keys or address cannot be used.
    """
    access_log.start()
    keys = Keys(settings.keys)
    if not (keys or settings.local or settings.without_keys):
        raise UsageError(
            f"host is {settings.host}, so that others can reach the server, and there are no API "
            f"keys: pass --keys FILE (or set {VARIABLE}), or --without-keys if a proxy checks them"
        )
    with _listening(settings) as sock:
        histories = None if settings.data is None else open_histories(settings.data)
        stream = open_stream(settings, progress=progress)
        need = need_of(stream, histories)
        server = Server(settings, stream, keys)
        host, port = sock.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        before = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH)
        try:
            asyncio.run(
                _run(settings, server, sock, lambda: ready and ready(address, stream, need))
            )
        finally:
            sys.setswitchinterval(before)


class _WithoutSignals(uvicorn.Server):
    """uvicorn's server, which leaves signals to us: a drained end is no death by a signal.

    Parameters
    ----------
    config : uvicorn's.
    ready : called once requests are taken.
    """

    def __init__(self, config: uvicorn.Config, ready: Callable[[], object]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()
            access_log.write("serving")

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _run(
    settings: Settings, server: Server, sock: socket.socket, ready: Callable[[], object]
) -> None:
    config = uvicorn.Config(
        server.app,
        loop="none",
        http=limited_protocol(settings.timeout),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        limit_concurrency=_connections(),
        timeout_graceful_shutdown=DRAIN,
    )
    running, loop = _WithoutSignals(config, ready), asyncio.get_running_loop()

    def stop() -> None:
        running.force_exit = running.should_exit  # asked twice: at once
        running.should_exit = True
        access_log.write("stopping")

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, lambda: server.reloader.begin())
    await running.serve(sockets=[sock])
    access_log.write("stopped")


def _connections() -> int:
    """Connections at once: as many as files may be open, but for some."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(64, soft - SPARE)


@contextlib.contextmanager
def _listening(settings: Settings) -> Iterator[socket.socket]:
    """The socket, taken before anything takes long; until the server runs nobody can connect."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio sends without delay only where the protocol is named; else each answer waits 40 ms.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((settings.host, settings.port))
        except (OSError, OverflowError) as error:
            raise LongrecError(
                f"{settings.host}:{settings.port} cannot be listened on: {error}; choose another "
                "--host or --port"
            ) from error
        yield sock
    finally:
        sock.close()


def limited_protocol(seconds: float) -> type[asyncio.Protocol]:
    """uvicorn's protocol with a limit on the time and the size of a request's head.

    Connections that take too long, or too much, before the head is whole are closed; what is no
    HTTP is answered as every other error is.
    """

    class Limited(HttpToolsProtocol):
        _timer: asyncio.TimerHandle | None = None
        _head = 0
        _refused = False

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._start_timer()

        def data_received(self, data: bytes) -> None:
            if self._refused:
                return
            if self._timer is None and not self._in_body():
                self._start_timer()  # another request of the same connection begins
            if self._timer is not None:
                self._head += len(data)
            super().data_received(data)
            if self._timer is not None and self._head > HEAD and not self.transport.is_closing():
                self._refuse(431, "size", f"the head has more than {HEAD:,} bytes")

        def send_400_response(self, msg: str) -> None:
            self._refuse(400, "http", "this is no request of HTTP/1.1")

        def _refuse(self, status: int, code: str, message: str) -> None:
            """Answer what no route sees, and close; after the answer that is under way, if any."""
            if self.pipeline or (self.cycle and not self.cycle.response_complete):
                if not self._in_body():
                    self.cycle.keep_alive = False
                    return
                if self.pipeline or self.cycle.response_started:
                    self.transport.close()
                    return
            self._refused = True
            body = problem(code, message)
            head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
            head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
            self.transport.write(f"{head}connection: close\r\n\r\n".encode() + body)
            # A client that still sends when the connection is closed does not see the answer.
            self.transport.write_eof()
            self.loop.call_later(LINGER, self.transport.close)

        def on_headers_complete(self) -> None:
            self._stop_timer()
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)

        def _in_body(self) -> bool:
            """Whether the last request that began is still being read."""
            return self.cycle is not None and self.cycle.more_body

        def _start_timer(self) -> None:
            self._head = 0
            self._timer = self.loop.call_later(seconds, self._close)

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _close(self) -> None:
            self._timer = None
            if self.transport.is_closing():
                return
            if self._head:
                self._refuse(408, "slow", f"the head did not come within {seconds:g} seconds")
            else:
                self.transport.close()

    kind: Any = Limited
    return kind  # type: ignore[no-any-return]
