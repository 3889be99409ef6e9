"""A way to a server that loses answers and holds up requests, as networks do."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Self


class CuttingProxy:
    """Passes on what it gets to a port of loopback, and what comes back.

    Attributes
    ----------
    lose : callable
        Asked at each piece of an answer: True loses it and cuts the connection.
    hold : bool
        The next piece of a request is kept until `release`; then False again.
    """

    def __init__(self, to: int) -> None:
        self.to, self.hold = to, False
        self.lose: Callable[[], bool] = lambda: False
        self.held: list[tuple[socket.socket, bytes]] = []
        self.cuts = 0
        self._open: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._listening.close()
        for one in self._open:
            _cut(one)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def lose_next(self, skipped: int = 0) -> None:
        """Lose one answer, after some that come through."""
        left = [skipped]

        def lose() -> bool:
            left[0] -= 1
            return left[0] == -1

        self.lose = lose

    def release(self) -> list[bytes]:
        """Send what was held, long after its sender gave it up; -> what the server answers."""
        answers = []
        for server, piece in self.held:
            server.sendall(piece)
            answers.append(server.recv(2**16))
            _cut(server)
        self.held.clear()
        return answers

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self.to))
                self._open += [client, server]
                for work in (self._ask, self._answer):
                    threading.Thread(target=work, args=(client, server), daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := client.recv(2**16):
                if self.hold:
                    self.hold = False
                    self.held.append((server, piece))
                    return
                server.sendall(piece)
        _cut(client, server)

    def _answer(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while not any(server is one for one, _ in self.held):
                server.settimeout(0.05)
                try:
                    piece = server.recv(2**16)
                except TimeoutError:
                    continue
                if not piece or self.lose():
                    self.cuts += bool(piece)
                    break
                client.sendall(piece)
            else:
                return
        _cut(client, server)


def _cut(*sockets: socket.socket) -> None:
    for one in sockets:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()
