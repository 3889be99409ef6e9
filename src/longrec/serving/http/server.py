"""The process of `longrec serve`: its socket, its signals, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import sys
from collections.abc import Callable, Iterator

import uvicorn
from starlette.types import ASGIApp

from longrec.core.errors import LongrecError, UsageError
from longrec.core.memory import share_heaps
from longrec.data.histories import open_histories
from longrec.serving.http import access_log
from longrec.serving.http.app import Server
from longrec.serving.http.connections import Connections, most_connections
from longrec.serving.http.keys import VARIABLE, Keys
from longrec.serving.http.protocol import limited_protocol
from longrec.serving.http.service import open_stream
from longrec.serving.http.settings import Settings
from longrec.serving.http.signals import DRAIN, Signals
from longrec.serving.http.store_work import Need, need_of
from longrec.serving.stream.stream import Stream

SWITCH = 0.0005
"""Seconds after which a thread must let another one go on: the default, 5 ms, is long here."""
HEAPS = 2
"""Heaps of all threads: Python runs one of them at a time."""
IDLE = 75
"""Seconds that a client may wait between two requests of a connection."""
REQUESTS = int(DRAIN) - 5
"""Seconds that requests under way may take after the server was told to stop: the rest of DRAIN is
for closing the store."""


def serve(
    settings: Settings,
    signals: Signals,
    progress: Callable[[float, float, str], None] | None = None,
    ready: Callable[[str, Stream, Need | None], None] | None = None,
) -> None:
    """Serve until a signal ends it: TERM or INT drain and stop, HUP changes the model.

    Parameters
    ----------
    settings : see `Settings`.
    signals : entered already; what they are called with while it serves is told here.
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
    share_heaps(HEAPS)
    keys = Keys(settings.keys)
    if not (keys or settings.local or settings.without_keys):
        raise UsageError(
            f"host is {settings.host}, so that others can reach the server, and there are no API "
            f"keys: pass --keys FILE (or set {VARIABLE}), or --without-keys if a proxy checks them"
        )
    with _listening(settings) as sock:
        server, need = _opened(settings, keys, progress)
        host, port = sock.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        before = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH)
        try:
            asyncio.run(
                _run(
                    *(settings, server, sock, signals),
                    lambda: ready and ready(address, server.service.current.stream, need),
                )
            )
        finally:
            sys.setswitchinterval(before)
            gc.unfreeze()


def _opened(
    settings: Settings, keys: Keys, progress: Callable[[float, float, str], None] | None
) -> tuple[Server, Need | None]:
    """A server, and what its store needs. Who serves keeps no stream: its model may be changed."""
    histories = None if settings.data is None else open_histories(settings.data)
    stream = open_stream(settings, progress=progress)
    return Server(settings, stream, keys), need_of(stream, histories)


class HttpServer(uvicorn.Server):
    """uvicorn's server, but for two things: it takes connections as `Connections` does, and leaves
    signals to the caller, since a drained end is no death by a signal.

    Parameters
    ----------
    app : that answers.
    sock : bound to an address; it is listened on, and in the end closed.
    connections : which may be open at once.
    timeout : seconds for a request's head, and for reading its answer.
    ready : called once requests are taken.
    """

    def __init__(
        self,
        app: ASGIApp,
        sock: socket.socket,
        connections: Connections,
        timeout: float,
        ready: Callable[[], object] = lambda: None,
    ) -> None:
        config = uvicorn.Config(
            app,
            loop="none",
            http=limited_protocol(timeout, connections),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=IDLE,
            timeout_graceful_shutdown=REQUESTS,
        )
        super().__init__(config)
        self._sock, self._connections, self._ready = sock, connections, ready
        self._accepting: asyncio.Task[None] | None = None

    def stop(self) -> None:
        """Take nothing more, and end once what is under way is answered."""
        self.should_exit = True
        access_log.write("stopping")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])
        if self.started and not self.should_exit:
            self._sock.listen(self.config.backlog)
            accepting = self._connections.accept(self._sock, self._protocol)
            self._accepting = asyncio.create_task(accepting)
            self._ready()
            access_log.write("serving")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._accepting is not None:  # else it was told to stop while it started
            self._accepting.cancel()
            await asyncio.wait([self._accepting])
        await super().shutdown(sockets=[self._sock])

    def _protocol(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _run(
    settings: Settings,
    server: Server,
    sock: socket.socket,
    signals: Signals,
    ready: Callable[[], object],
) -> None:
    def started() -> None:
        # What there is now stays. Else it is looked through again and again for garbage, a tenth of
        # a second each time in which nobody is answered.
        gc.collect()
        gc.freeze()
        ready()
        signals.call_to_reload(server.reloader.begin)

    connections = Connections(most_connections())
    running = HttpServer(server.app, sock, connections, settings.timeout, started)
    signals.call_to_stop(running.stop)
    await running.serve()
    access_log.write("stopped")


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
