"""Connections that take too long, or too much, before their request's head is whole are closed."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD = 64 << 10
"""Bytes of a request's head at most."""


def protocol(seconds: float) -> type[asyncio.Protocol]:
    """uvicorn's protocol with a limit on the time and the size of a request's head."""

    class Patient(HttpToolsProtocol):
        _timer: asyncio.TimerHandle | None = None
        _head = 0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            if self._timer is None and not self._in_body():
                self._wait()  # another request of the same connection begins
            if self._timer is not None:
                self._head += len(data)
            super().data_received(data)
            if self._timer is not None and self._head > HEAD and not self.transport.is_closing():
                self.send_400_response("The request's head is too large.")

        def on_headers_complete(self) -> None:
            self._stop()
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def _in_body(self) -> bool:
            """Whether the last request that began is still being read."""
            return self.cycle is not None and self.cycle.more_body

        def _wait(self) -> None:
            self._head = 0
            self._timer = self.loop.call_later(seconds, self._close)

        def _stop(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _close(self) -> None:
            self._timer = None
            if not self.transport.is_closing():
                self.transport.close()

    kind: Any = Patient
    return kind  # type: ignore[no-any-return]
