"""What every request goes through first: who asks, how often, how much and how long."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from math import ceil
from time import perf_counter
from typing import Any

from longrec.serving.http import access_log as logs
from longrec.serving.http.keys import Keys
from longrec.serving.http.rate import Rates
from longrec.serving.http.settings import Settings
from longrec.serving.http.telemetry import Telemetry

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

OPEN = ("/healthz", "/readyz")
"""Paths that need no key and have no rate: they tell nothing but whether the server works."""
BEGAN, ANSWERED = "longrec.began", "longrec.answered"
"""Where a request's moments stand in its scope."""
_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_LOCAL = re.compile(rb"(localhost|127(\.\d+){3}|\[::1\])(:\d+)?", re.IGNORECASE)
_HEADERS = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))


class Refused(Exception):
    """A request that is not answered: the status, a code and a message, perhaps further headers."""

    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def problem(code: str, message: str) -> bytes:
    """The body of every answer that is an error."""
    return json.dumps({"error": {"code": code, "message": message}}).encode()


class Guard:
    """An ASGI application around another one.

    Parameters
    ----------
    app : what answers.
    settings : limits.
    keys : who may ask; without any, everybody who reaches the server.
    telemetry : where requests are counted.
    """

    def __init__(self, app: App, settings: Settings, keys: Keys, telemetry: Telemetry) -> None:
        self._app, self._settings, self._keys, self._telemetry = app, settings, keys, telemetry
        self._rates = Rates(settings.rate)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        scope[BEGAN] = perf_counter()
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        name = given if _ID.fullmatch(given) else secrets.token_hex(8).encode()
        status = 0

        async def tell(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    *_HEADERS,
                    (b"x-request-id", name),
                ]
            await send(message)

        try:
            await self._answer(scope, headers, receive, tell)
        except Refused as refused:
            if not status:
                await _refuse(refused, tell)
        except Exception as error:
            # The routes have answered; it goes no further, since its words may hold ids.
            logs.log.error("failed", exc_info=error, extra={"fields": {"id": name.decode()}})
        finally:
            self._count(scope, status, name.decode())

    async def _answer(
        self,
        scope: MutableMapping[str, Any],
        headers: dict[bytes, bytes],
        receive: Receive,
        send: Send,
    ) -> None:
        if scope["path"] not in OPEN:
            self._admit(scope, headers)
        body = await self._body(headers, receive)
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
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

    def _admit(self, scope: MutableMapping[str, Any], headers: dict[bytes, bytes]) -> None:
        """Raise Refused unless the request comes from somebody who may ask, and not too often."""
        client = scope.get("client")
        name = client[0] if client else ""
        if self._keys:
            kind, _, key = headers.get(b"authorization", b"").partition(b" ")
            found = self._keys.knows(key.strip().decode("latin-1"))
            if kind.lower() != b"bearer" or found is None:
                raise Refused(
                    401,
                    "key",
                    "send a known API key: Authorization: Bearer KEY",
                    www_authenticate="Bearer",
                )
            name = found
        elif self._settings.local and not _LOCAL.fullmatch(headers.get(b"host", b"")):
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
        """The whole body, if it is small enough and comes in time."""
        most = self._settings.max_body
        large = Refused(
            413,
            "size",
            f"the body has more than {most:,} bytes: send less at once",
            connection="close",
        )
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length[:20]) > most:
            raise large
        parts, size, more = [], 0, True
        try:
            async with asyncio.timeout(self._settings.timeout):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refused(400, "disconnected", "the body did not come to its end")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    more = message.get("more_body", False)
                    if size > most:
                        raise large
        except TimeoutError:
            raise Refused(
                408,
                "slow",
                f"the body did not come within {self._settings.timeout:g} seconds",
                connection="close",
            ) from None
        return b"".join(parts)

    def _count(self, scope: MutableMapping[str, Any], status: int, name: str) -> None:
        now = perf_counter()
        seconds = now - scope[BEGAN]
        route = getattr(scope.get("route"), "path_format", "other")
        method = scope["method"] if route != "other" else "any"  # a label's values must be few
        self._telemetry.request(route, method, status, seconds)
        if ANSWERED in scope:
            self._telemetry.stage("reply", now - scope[ANSWERED])
        if self._settings.log_requests:
            logs.tell(
                "request",
                id=name,
                method=method,
                route=route,
                status=status,
                ms=round(1e3 * seconds, 3),
            )


async def _refuse(refused: Refused, send: Send) -> None:
    body = problem(refused.code, refused.message)
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        **refused.headers,
    }
    encoded = [(key.encode(), value.encode()) for key, value in headers.items()]
    await send({"type": "http.response.start", "status": refused.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
