"""What every request goes through first: who asks, how often, how much and how long."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from math import ceil
from time import monotonic, perf_counter

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from longrec.serving.http import access_log
from longrec.serving.http.errors import FAILED, Busy, Refused, refusal
from longrec.serving.http.keys import Keys
from longrec.serving.http.settings import Settings
from longrec.serving.http.telemetry import Telemetry

Public = Mapping[str, Callable[[], Awaitable[Response]]]
"""Paths that need no key and have no rate, since they tell nothing but whether the server works,
and what answers them; nothing else is done for a request that is free."""
BEGAN, ANSWERED = "longrec.began", "longrec.answered"
"""Where a request's moments stand in its scope."""
_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_LOCAL = re.compile(rb"(localhost|127(\.\d+){3}|\[::1\])(:\d+)?", re.IGNORECASE)
_HEADERS = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))
THROWN_AWAY, THROWING = 64 << 20, 2.0
"""Bytes, and seconds, of a body that is too large which are read before it is refused."""
HELD = 64 << 20
"""Bytes of all bodies that are in memory; what is beyond is refused."""
BUCKETS = 10_000
"""Buckets kept; the one that was not asked for longest goes first."""


class RateLimiter:
    """How often somebody may ask: a bucket of tokens each, by name, refilled at a steady rate.

    Parameters
    ----------
    rate : tokens per second; a full bucket holds twice as many, at least one.
    """

    def __init__(self, rate: float) -> None:
        self._rate, self._full = rate, max(1.0, 2 * rate)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str) -> float:
        """Take a token: 0 if there was one, else the seconds until there is."""
        now = monotonic()
        tokens, since = self._buckets.pop(name, (self._full, now))
        tokens = min(self._full, tokens + (now - since) * self._rate)
        wait = 0.0 if tokens >= 1 else (1 - tokens) / self._rate
        self._buckets[name] = (tokens if wait else tokens - 1, now)
        if len(self._buckets) > BUCKETS:
            self._buckets.popitem(last=False)
        return wait


class Admission:
    """An ASGI application around another one.

    Parameters
    ----------
    app : what answers.
    settings : limits.
    keys : who may ask; without any, everybody who reaches the server.
    telemetry : where requests are counted.
    public : see `Public`.
    """

    def __init__(
        self, app: ASGIApp, settings: Settings, keys: Keys, telemetry: Telemetry, public: Public
    ) -> None:
        self._app, self._settings, self._keys, self._telemetry = app, settings, keys, telemetry
        self._public, self._held = public, 0
        self._rates = RateLimiter(settings.rate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["method"] == "HEAD":  # answered as GET; the server beneath leaves the body out
            scope = {**scope, "method": "GET"}
        scope[BEGAN] = perf_counter()
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given if _ID.fullmatch(given) else secrets.token_hex(8).encode()
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    *_HEADERS,
                    (b"x-request-id", request_id),
                ]
            await send(message)

        try:
            await self._answer(scope, headers, receive, send_with_headers)
        except Refused as refused:
            if not status:
                await refusal(refused)(scope, receive, send_with_headers)
        except Exception as error:
            # It goes no further, since its words may hold ids.
            access_log.log.error(
                "failed", exc_info=error, extra={"fields": {"id": request_id.decode()}}
            )
            if not status:  # else the routes have answered
                failed = Refused(500, "failed", FAILED)
                await refusal(failed)(scope, receive, send_with_headers)
        finally:
            self._count(scope, status, request_id.decode())

    async def _answer(
        self,
        scope: Scope,
        headers: dict[bytes, bytes],
        receive: Receive,
        send: Send,
    ) -> None:
        free = scope["path"] in self._public
        if free and scope["method"] == "GET":
            answer = await self._public[scope["path"]]()
            await answer(scope, receive, send)
            return
        if not free:
            self._admit(scope, headers)
        body = await self._body(headers, receive)
        try:
            if not free:
                self._check_key(headers)  # it may have been taken away meanwhile
                send = self._unless_revoked(scope, headers, receive, send)
            await self._ask_routes(scope, body, receive, send)
        finally:
            self._held -= len(body)

    async def _ask_routes(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Let the routes answer, in time."""
        replayed = False

        async def replay() -> Message:
            nonlocal replayed
            if replayed:
                return await receive()
            replayed = True
            return {"type": "http.request", "body": body, "more_body": False}

        try:
            async with asyncio.timeout(self._settings.timeout):
                await self._app(scope, replay, send)
        except TimeoutError:
            raise Refused(
                503,
                "timeout",
                f"no answer within {self._settings.timeout:g} seconds: events may be logged or "
                "not, and with event ids they may be sent again",
                retry_after="1",
            ) from None

    def _check_key(self, headers: dict[bytes, bytes]) -> str | None:
        """The name of a request's key; None where keys are not asked for.

        Raises
        ------
        Refused
            When it has no key that is known now.
        """
        if not self._keys:
            return None
        kind, _, key = headers.get(b"authorization", b"").partition(b" ")
        found = self._keys.knows(key.strip().decode("latin-1"))
        if kind.lower() != b"bearer" or found is None:
            raise Refused(
                401,
                "key",
                "send a known API key: Authorization: Bearer KEY",
                www_authenticate="Bearer",
            )
        return found

    def _unless_revoked(
        self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, send: Send
    ) -> Send:
        """`send`, but for an answer that was made while its key was taken away: that is 401."""
        revoked = False

        async def checked(message: Message) -> None:
            nonlocal revoked
            if message["type"] == "http.response.start":
                try:
                    self._check_key(headers)
                except Refused as refused:
                    revoked = True
                    await refusal(refused)(scope, receive, send)
            if not revoked:
                await send(message)

        return checked

    def _admit(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        """Raise Refused unless the request comes from somebody who may ask, and not too often."""
        name = self._check_key(headers)
        if name is None:
            client = scope.get("client")
            name = client[0] if client else ""
            if self._settings.local and not _LOCAL.fullmatch(headers.get(b"host", b"")):
                # A web page elsewhere may point a name of its own at this machine.
                raise Refused(403, "host", "without API keys only localhost is answered")
        wait = self._rates.take(name)
        if wait:
            raise Refused(
                429,
                "rate",
                f"more than {self._settings.rate:g} requests per second",
                retry_after=str(ceil(wait)),
            )

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """The whole body, if it is small enough, comes in time, and finds room.

        Of one that is too large some is read and thrown away: a client that still sends when its
        connection is closed does not see the answer.
        """
        most = self._settings.max_body
        large = Refused(
            413,
            "size",
            f"the body has more than {most:,} bytes: send less at once",
            connection="close",
        )
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise Refused(
                *(415, "encoding", "compressed bodies are not taken: send it as it is"),
                connection="close",
            )
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length[:20]) > most:
            if b"expect" not in headers:  # who waits for leave to send has sent nothing
                await _throw_away(receive)
            raise large
        parts, size, more = list[bytes](), 0, True
        try:
            async with asyncio.timeout(self._settings.timeout):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refused(400, "disconnected", "the body did not come to its end")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    self._held += len(parts[-1])
                    more = message.get("more_body", False)
                    if size > most:
                        parts.clear()
                        if more:
                            await _throw_away(receive)
                        raise large
                    if self._held > HELD:
                        raise Refused(503, "busy", str(Busy()), retry_after="1", connection="close")
        except BaseException as error:
            self._held -= size
            if isinstance(error, TimeoutError):
                raise Refused(
                    408,
                    "slow",
                    f"the body did not come within {self._settings.timeout:g} seconds",
                    connection="close",
                ) from None
            raise
        return b"".join(parts)

    def _count(self, scope: Scope, status: int, request_id: str) -> None:
        now = perf_counter()
        seconds = now - scope[BEGAN]
        route = getattr(scope.get("route"), "path_format", "other")
        if route == "other" and scope["path"] in self._public:
            route = scope["path"]
        method = scope["method"] if route != "other" else "any"  # a label's values must be few
        self._telemetry.request(route, method, status, seconds)
        if ANSWERED in scope:
            self._telemetry.stage("reply", now - scope[ANSWERED])
        if self._settings.log_requests:
            access_log.write(
                "request",
                id=request_id,
                method=method,
                route=route,
                status=status,
                ms=round(1e3 * seconds, 3),
            )


async def _throw_away(receive: Receive) -> None:
    """Read the rest of a body, for a while."""
    left = THROWN_AWAY
    with suppress(TimeoutError):
        async with asyncio.timeout(THROWING):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
