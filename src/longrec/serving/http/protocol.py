"""HTTP on a connection, with limits on what a client may send, how slowly, and how far ahead."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from longrec.serving.http.connections import Connections
from longrec.serving.http.errors import problem

READ = 64 << 10
"""Bytes read at once: what one client has sent is not all handled before another's turn comes."""
HEAD, HEADERS = 32 << 10, 100
"""Bytes of a request's head, and header lines, at most."""
CHUNKS, CHUNK = 256, 64
"""Chunks of a body that may have any size, and bytes that each further one must bring on average:
chunks of a few bytes cost a thousand times what they carry."""
BETWEEN = 128 << 10
"""Bytes of a body that come without any of its content: extensions of chunks, lines at its end."""
AHEAD = 8
"""Requests that a client may send before the first one is answered."""
REST = 0.05
"""Seconds until what no route sees is refused: who connects and is refused again and again costs
little, however fast."""
LINGER = 2.0
"""Seconds that a client may go on sending after it was refused, or answered before its end."""
WRONG = 400, "http", "this is no request of HTTP/1.1"
HEAD_TOO_LARGE = (
    431,
    "size",
    f"the head has more than {HEAD:,} bytes, or {HEADERS} lines: send less",
)


class _Answers:
    """A transport that sends the head of an answer with its body.

    uvicorn writes one after the other: two calls of the system, and a client that is woken by the
    first has to wait for the second.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport, self._head, self._ended = transport, b"", False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._ended:  # a route answers what was refused meanwhile
            return
        if self._head:
            data, self._head = self._head + data, b""
        elif data.endswith(b"\r\n\r\n") and data[9:12] != b"100":
            self._head = data
            return
        self._transport.write(data)

    def flush(self) -> None:
        """Send the head of an answer that has no body."""
        if self._head:
            self.write(b"")

    def end(self) -> None:
        """Send nothing more but `last`."""
        self.flush()
        self._ended = True

    def last(self, data: bytes) -> None:
        """Send what is last; a client that still sends, and would lose what it has not read if the
        connection closed, may go on."""
        if not self._transport.is_closing():
            self._transport.write(data)
            try:
                self._transport.write_eof()
            except OSError:  # the client has reset it, which nobody read while it was refused
                self._transport.abort()

    def close(self) -> None:
        """Close, once all is sent."""
        self.flush()
        self._transport.close()


def limited_protocol(seconds: float, connections: Connections) -> type[asyncio.Protocol]:
    """uvicorn's protocol with limits.

    Parameters
    ----------
    seconds : that a client may take to send a request's head, and to read its answer.
    connections : where each is noted, and may be told to go.
    """

    class Limited(HttpToolsProtocol):
        _timer: asyncio.TimerHandle | None = None
        _writing: asyncio.TimerHandle | None = None
        _rest: asyncio.TimerHandle | None = None
        _lingering: asyncio.TimerHandle | None = None
        _head = _headers = _chunks = _carried = _between = 0
        _wrong = WRONG
        _refused = False

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            setattr(transport, "max_size", READ)  # noqa: B010  # asyncio's own name, undeclared
            self._answers = _Answers(transport)
            self.transport = cast(asyncio.Transport, self._answers)
            connections.opened(self)
            self._start_timer()

        def connection_lost(self, exc: Exception | None) -> None:
            """Let all timers go: whatever still waits for this connection keeps it in memory, and
            who connects thousands of times a second would fill that, and with it what Python looks
            through for garbage while nobody is answered."""
            connections.closed(self)
            self._stop_timer()
            self._stop_waiting()
            self._stop_lingering()
            self.resume_writing()
            super().connection_lost(exc)
            self._unset_keepalive_if_required()  # which uvicorn leaves where the client reset it

        # What is read

        def data_received(self, data: bytes) -> None:
            if self._refused:
                return
            if self._timer is None and not self._in_body():
                self._start_timer()  # another request of the same connection begins
            if self._timer is not None:
                self._head += len(data)
            self._between += len(data)
            super().data_received(data)
            if self._timer is not None and self._head > HEAD and not self.transport.is_closing():
                self._refuse(*HEAD_TOO_LARGE)
            elif self._between > BETWEEN and self._in_body():
                self._refuse(413, "size", f"a chunk begins with more than {BETWEEN:,} bytes")

        def on_message_begin(self) -> None:
            self._headers = self._chunks = self._carried = self._between = 0
            if len(self.pipeline) >= AHEAD:
                self._stop(400, "ahead", f"more than {AHEAD} requests were sent ahead")
            super().on_message_begin()

        def on_header(self, name: bytes, value: bytes) -> None:
            self._headers += 1
            if self._headers > HEADERS:
                self._stop(*HEAD_TOO_LARGE)
            super().on_header(name, value)

        def on_headers_complete(self) -> None:
            self._stop_timer()
            connections.asked(self)
            super().on_headers_complete()

        def on_chunk_header(self) -> None:
            self._chunks += 1
            if self._chunks > CHUNKS + self._carried // CHUNK:
                self._stop(
                    *(413, "size"),
                    f"the body came in {self._chunks:,} chunks of {self._carried // self._chunks} "
                    f"bytes each: send chunks of {CHUNK} bytes or more",
                )

        def on_body(self, body: bytes) -> None:
            self._between = 0
            self._carried += len(body)
            super().on_body(body)

        def on_message_complete(self) -> None:
            super().on_message_complete()
            if self._rest is not None:
                self._stop_waiting()
                self.cycle.more_body = False  # which uvicorn leaves as it is after an answer
                self._start_timer()  # of the next request, if there is one

        def on_response_complete(self) -> None:
            self._answers.flush()
            super().on_response_complete()
            if self.cycle.response_complete:
                connections.answered(self)
                if self._in_body() and not self._refused:
                    # Answered before it was read, as by 401; nothing else limits what still comes.
                    self._rest = self.loop.call_later(LINGER, self.let_go)
            self._abort_if_unread()

        def send_400_response(self, msg: str) -> None:
            """Called where the parser stops, whether at what is no HTTP or at what is too much."""
            self._refuse(*self._wrong)

        def _stop(self, status: int, code: str, message: str) -> None:
            """Let the parser stop amid what it reads, and refuse that."""
            self._wrong = status, code, message
            raise ValueError(message)

        def _refuse(self, status: int, code: str, message: str) -> None:
            """Answer what no route sees, and close; after the answer that is under way, if any."""
            if self._refused:
                return
            if self._rest is not None:  # it was answered
                self.let_go()
                return
            if self.pipeline or (self.cycle and not self.cycle.response_complete):
                if not self._in_body():
                    self.cycle.keep_alive = False
                    return
                if self.pipeline or self.cycle.response_started:
                    self.let_go()
                    return
            self._refused = True
            body = problem(code, message)
            head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
            head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
            self._answers.end()
            self.flow.pause_reading()
            refusal = f"{head}connection: close\r\n\r\n".encode() + body
            self._lingering = self.loop.call_later(REST, self._answer_refused, refusal)

        def _answer_refused(self, refusal: bytes) -> None:
            self._answers.last(refusal)
            self.flow.resume_reading()
            self._lingering = self.loop.call_later(LINGER, self.let_go)

        def _in_body(self) -> bool:
            """Whether the last request that began is still being read."""
            return self.cycle is not None and self.cycle.more_body

        # Who must go

        def let_go(self) -> None:
            """Close, once what was written is read, or after a while."""
            self.transport.close()
            self._abort_if_unread()

        def shutdown(self) -> None:
            super().shutdown()
            self._abort_if_unread()

        def timeout_keep_alive_handler(self) -> None:
            super().timeout_keep_alive_handler()
            self._abort_if_unread()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._abort_later()

        def resume_writing(self) -> None:
            if self._writing is not None:
                self._writing.cancel()
                self._writing = None
            super().resume_writing()

        def _too_slow(self) -> None:
            self._timer = None
            if self._head and not self.transport.is_closing():
                self._refuse(408, "slow", f"the head did not come within {seconds:g} seconds")
            else:
                self.let_go()

        def _abort_if_unread(self) -> None:
            """A transport that is closed waits for its client to read, however long that takes."""
            if self.transport.is_closing() and self.transport.get_write_buffer_size():
                self._abort_later()

        def _abort_later(self) -> None:
            if self._writing is None:
                self._writing = self.loop.call_later(seconds, self.transport.abort)

        def _start_timer(self) -> None:
            self._head = 0
            self._timer = self.loop.call_later(seconds, self._too_slow)

        def _stop_waiting(self) -> None:
            """No longer for the rest of what was answered."""
            if self._rest is not None:
                self._rest.cancel()
                self._rest = None

        def _stop_lingering(self) -> None:
            """No longer for the answer to what was refused, or for its end."""
            if self._lingering is not None:
                self._lingering.cancel()
                self._lingering = None

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    kind: Any = Limited
    return kind  # type: ignore[no-any-return]
