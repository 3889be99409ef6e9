"""Connections as they come: as many as files may be open, and none that does nothing keeps another
one out."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Protocol

from longrec.serving.http import access_log

OPEN_FILES, SPARE = 16_384, 256
"""Files that may be open at once, and those of them that are no connections."""
GRACE = 1.0
"""Seconds that a connection may wait for its client before another one may take its place."""
AGAIN_AFTER = 0.2
"""Seconds until a connection is taken again where the system had no room for one."""


class Held(Protocol):
    """A connection, as `Connections` knows it."""

    def let_go(self) -> None:
        """Close it; nobody is answered on it."""


class Connections:
    """All connections of a server. When there are too many, one that waits for its client goes:
    first those that have never sent a whole request, then those between two requests, each time
    the one that has waited longest. Where all are being answered nothing more is taken.

    Parameters
    ----------
    most : connections at once.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._open = set[Held]()
        # Dicts keep their order: the one that has waited longest is the first.
        self._strangers, self._idle = dict[Held, float](), dict[Held, float]()
        self._room = asyncio.Event()

    def __len__(self) -> int:
        return len(self._open)

    def opened(self, one: Held) -> None:
        """A connection has come; it has sent nothing yet."""
        self._open.add(one)
        self._strangers[one] = monotonic()

    def asked(self, one: Held) -> None:
        """It has sent the head of a request."""
        self._strangers.pop(one, None)
        self._idle.pop(one, None)

    def answered(self, one: Held) -> None:
        """All that it sent is answered."""
        if one in self._open:
            self._idle[one] = monotonic()

    def closed(self, one: Held) -> None:
        """It is gone."""
        self.asked(one)
        self._open.discard(one)
        self._room.set()

    async def accept(
        self, sock: socket.socket, protocol: Callable[[], asyncio.BaseProtocol]
    ) -> None:
        """Take connections of a listening socket until cancelled.

        asyncio's own servers take as many as come and, without files for them, write a traceback
        for each one that waits.
        """
        loop = asyncio.get_running_loop()
        sock.setblocking(False)
        while True:
            if len(self) > self.most:
                await self._make_room()
            try:
                connection, _ = await loop.sock_accept(sock)
            except OSError as error:  # no file or no memory for it; or it is gone already
                access_log.write_rarely(f"a connection cannot be taken: {error.strerror}")
                self._let_one_go()
                await asyncio.sleep(AGAIN_AFTER)
                continue
            try:
                await loop.connect_accepted_socket(protocol, connection)
            except OSError:
                connection.close()

    async def _make_room(self) -> None:
        """Return once there are no more connections than may be."""
        while len(self) > self.most:
            access_log.write_rarely(f"{self.most:,} connections are open: no more are taken")
            self._room.clear()
            if not self._let_one_go():
                with suppress(TimeoutError):  # one may begin to wait meanwhile
                    await asyncio.wait_for(self._room.wait(), AGAIN_AFTER)

    def _let_one_go(self) -> bool:
        for waiting in (self._strangers, self._idle):
            one, since = next(iter(waiting.items()), (None, 0.0))
            if one is not None and monotonic() - since >= GRACE:
                self.closed(one)
                one.let_go()
                return True
        return False


def most_connections() -> int:
    """Connections at once: as many as files may be open, but for some.

    The process's own limit is raised as far as it may be.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft - min(SPARE, (soft + 1) // 2)
