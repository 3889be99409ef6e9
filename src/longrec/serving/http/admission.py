"""What every request goes through first: who asks, how often, how much and how long."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from math import ceil
from time import monotonic, perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from longrec.serving.http import access_log
from longrec.serving.http.call import Call, Direct
from longrec.serving.http.errors import FAILED, Busy, Refused, answer_to, refusal
from longrec.serving.http.keys import Keys
from longrec.serving.http.settings import Settings
from longrec.serving.http.telemetry import Telemetry

PUBLIC = "/healthz", "/readyz"
"""Paths that need no key and have no rate, since they tell nothing but whether the server works."""
CALL = "longrec.call"
"""Where a request's `Call` stands in its scope."""
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
    routes : what answers all that is not answered directly.
    direct : see `Direct`.
    settings : limits.
    keys : who may ask; without any, everybody who reaches the server.
    telemetry : where requests are counted.
    """

    def __init__(
        self, routes: ASGIApp, direct: Direct, settings: Settings, keys: Keys, telemetry: Telemetry
    ) -> None:
        self._routes, self._direct, self._settings = routes, direct, settings
        self._keys, self._telemetry, self._held = keys, telemetry, 0
        self._rates = RateLimiter(settings.rate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._routes(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["method"] == "HEAD":  # answered as GET; the server beneath leaves the body out
            scope = {**scope, "method": "GET"}
        headers = dict(scope["headers"])
        scope[CALL] = call = Call(headers)
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
            await self._answer(call, scope, receive, send_with_headers)
        except Exception as error:
            answer = answer_to(error)
            if answer is None:  # it goes no further, since its words may hold ids
                told = {"fields": {"id": request_id.decode()}}
                access_log.log.error("failed", exc_info=error, extra=told)
                answer = refusal(Refused(500, "failed", FAILED))
            if not status:  # else the routes have answered
                await answer(scope, receive, send_with_headers)
        finally:
            self._count(call, scope, status, request_id.decode())

    async def _answer(self, call: Call, scope: Scope, receive: Receive, send: Send) -> None:
        free, direct = scope["path"] in PUBLIC, self._direct.get((scope["method"], scope["path"]))
        if free and direct is not None:
            await _send_json(await direct(call), send)
            return
        if not free:
            self._admit(scope, call.headers)
        call.body = await self._body(call.headers, receive)
        try:
            if self._keys and not free:
                self._check_key(call.headers)  # it may have been taken away meanwhile
                send = self._unless_revoked(scope, call.headers, receive, send)
            async with asyncio.timeout(self._settings.timeout):
                if direct is not None:
                    await _send_json(await direct(call), send)
                else:
                    await self._routes(scope, _replay(call.body, receive), send)
        except TimeoutError:
            raise Refused(
                503,
                "timeout",
                f"no answer within {self._settings.timeout:g} seconds: events may be logged or "
                "not, and with event ids they may be sent again",
                retry_after="1",
            ) from None
        finally:
            self._held -= len(call.body)

    def _check_key(self, headers: Mapping[bytes, bytes]) -> str | None:
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
        self, scope: Scope, headers: Mapping[bytes, bytes], receive: Receive, send: Send
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

    def _admit(self, scope: Scope, headers: Mapping[bytes, bytes]) -> None:
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

    async def _body(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
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

    def _count(self, call: Call, scope: Scope, status: int, request_id: str) -> None:
        now, method, path = perf_counter(), scope["method"], scope["path"]
        seconds = now - call.began
        route = path
        if (method, path) not in self._direct:
            route = getattr(scope.get("route"), "path_format", "other")
        if route == "other":
            method = "any"  # a label's values must be few
        self._telemetry.request(route, method, status, seconds)
        if call.found:
            self._telemetry.stage("reply", now - call.found)
        # A balancer asks several times a second whether all is well: only that it is not is news.
        if self._settings.log_requests and not (path in PUBLIC and status == 200):
            access_log.write_request(request_id, method, route, status, seconds)


async def _send_json(content: bytes, send: Send) -> None:
    headers = [(b"content-length", b"%d" % len(content)), (b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def _replay(body: bytes, receive: Receive) -> Receive:
    """What gives a body that has come already, and then what `receive` gives."""
    replayed = False

    async def replay() -> Message:
        nonlocal replayed
        if replayed:
            return await receive()
        replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


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
