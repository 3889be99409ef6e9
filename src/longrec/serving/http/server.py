"""The process of `longrec serve`: its socket, its signals, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator

import uvicorn

from longrec.core.errors import LongrecError, UsageError
from longrec.serving.http import access_log as logs
from longrec.serving.http.app import Server
from longrec.serving.http.keys import VARIABLE, Keys
from longrec.serving.http.protocol import protocol
from longrec.serving.http.service import open_stream
from longrec.serving.http.settings import Settings
from longrec.serving.stream.stream import Stream

SWITCH = 0.0005
"""Seconds after which a thread must let another one go on: the default, 5 ms, is long here."""
MANY, SPARE = 16_384, 256
"""Files that may be open at once, and those that are no connections."""
DRAIN = 30
"""Seconds that requests under way may take after the server was told to stop."""


def serve(
    settings: Settings,
    progress: Callable[[float, float, str], None] | None = None,
    ready: Callable[[str, Stream], None] | None = None,
) -> None:
    """Serve until a signal ends it: TERM or INT drain and stop, HUP changes the model.

    Parameters
    ----------
    settings : see `Settings`.
    progress : called with (done, of all, what) while an index is built.
    ready : called with the address and the stream once requests are taken.

    Raises
    ------
    UsageError
        When others could reach it without a key.
    LongrecError
        When run, store, keys or address cannot be used.
    """
    keys = Keys(settings.keys)
    if not (keys or settings.local or settings.without_keys):
        raise UsageError(
            f"host is {settings.host}, so that others can reach the server, and there are no API "
            f"keys: pass --keys FILE (or set {VARIABLE}), or --without-keys if a proxy checks them"
        )
    with _listening(settings) as sock:
        stream = open_stream(settings, progress=progress)
        try:
            server = Server(settings, stream, keys)
        except BaseException:
            stream.close()
            raise
        host, port = sock.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        logs.start()
        before = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH)
        try:
            asyncio.run(_run(settings, server, sock, lambda: ready and ready(address, stream)))
        finally:
            sys.setswitchinterval(before)


class _Quiet(uvicorn.Server):
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
            logs.tell("serving")

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _run(
    settings: Settings, server: Server, sock: socket.socket, ready: Callable[[], object]
) -> None:
    config = uvicorn.Config(
        server.app,
        loop="none",
        http=protocol(settings.timeout),
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
    quiet, loop = _Quiet(config, ready), asyncio.get_running_loop()

    def stop() -> None:
        quiet.force_exit = quiet.should_exit  # asked twice: at once
        quiet.should_exit = True
        logs.tell("stopping")

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, lambda: server.swapper.begin())
    await quiet.serve(sockets=[sock])
    logs.tell("stopped")


def _connections() -> int:
    """Connections at once: as many as files may be open, but for some."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most == resource.RLIM_INFINITY or most > MANY:
        most = MANY
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (most, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    )
    return max(64, most - SPARE)


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
