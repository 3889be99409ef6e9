"""The way to a Redis server: connections, calls tried again, and errors in plain words.

A call is one command, sent again for some seconds when the connection is lost. For what only reads
that is harmless; changing calls are numbered, and Redis does each number once (redis_scripts.py).
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable
from typing import Any, NoReturn
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from redis.backoff import NoBackoff
from redis.connection import Connection, parse_url
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ConnectionError,
    NoScriptError,
    RedisError,
    ResponseError,
    TimeoutError,
)
from redis.retry import Retry

from longrec.core.errors import DataError, LongrecError, UsageError
from longrec.serving.stores.protocol import StoreFull, StoreUnavailable
from longrec.serving.stores.redis_scripts import Script

PATIENCE = 6.0
"""Seconds for which a lost connection is tried again."""
PREFIX = "longrec:"
WAITS = {"socket_timeout": 10.0, "socket_connect_timeout": 3.0}
"""Seconds to wait for an answer and for a connection, unless the URL says others."""

_OPTIONS = {
    *("host", "port", "db", "username", "password", "connection_class", "client_name"),
    *("socket_timeout", "socket_connect_timeout", "socket_keepalive", "health_check_interval"),
}
_BUSY = r"\b(LOADING|BUSY|MASTERDOWN|NOREPLICAS|TRYAGAIN)\b"


class Address:
    """A Redis URL taken apart.

    Attributes
    ----------
    shown : the URL without credentials and options; prefix : what all keys begin with;
    options : what redis-py's connections take.
    """

    def __init__(self, url: str) -> None:
        scheme = url.partition("://")[0]
        read = _read(url)
        if read is None:  # the error's own text may have parts of a password
            raise UsageError(
                f"the URL {scheme}://… cannot be read: write {scheme}://user:password@host:6379/0, "
                "what is special in the password percent-encoded, and numbers as numbers"
            )
        self.options, place, prefix = read
        self.prefix = prefix.encode()
        self.shown = f"{scheme}://{place}/{self.options['db']}"
        if prefix != PREFIX:
            self.shown += "?" + urlencode({"prefix": prefix})
        for name in self.options:
            if name not in _OPTIONS and not (scheme == "rediss" and name.startswith("ssl_")):
                raise UsageError(
                    f"{self.shown}: {name!r} is no option of a store's URL; there are prefix, "
                    "socket_timeout, socket_connect_timeout, socket_keepalive, "
                    "health_check_interval, client_name, and ssl_… of rediss://"
                )


def _read(url: str) -> tuple[dict[str, Any], str, str] | None:
    """Options, place and prefix of a URL; None if it is none."""
    try:
        parts = urlsplit(url)
        if parts.fragment or "@" in parts.path + parts.query:  # of a password, not encoded
            return None
        given = parse_qsl(parts.query)
        rest = urlencode([(name, value) for name, value in given if name != "prefix"])
        bare = urlunsplit(parts._replace(query=rest))
        options: dict[str, Any] = parse_url(bare)  # type: ignore[no-untyped-call]
        options.setdefault("db", int(parts.path.strip("/") or 0))
        host = parts.hostname or "localhost"
        place = f"[{host}]" if ":" in host else host
        place += f":{parts.port or 6379}"
    except ValueError:
        return None
    return options, place, dict(given).get("prefix", PREFIX)


class _Line:
    """A connection; it is known to Redis by its slot, and its changing calls by their numbers."""

    def __init__(self, connection: Any) -> None:
        self.connection, self.slot, self.calls = connection, os.urandom(8).hex(), 0

    def ask(self, command: tuple[Any, ...]) -> Any:
        try:
            packed = b"".join(self.connection.pack_command(*command))
            self.connection.send_packed_command([packed])
            return self.connection.read_response()
        except ResponseError:
            raise
        except BaseException:  # an answer may still come, and would be taken for the next one's
            self.connection.disconnect()
            raise


class Link:
    """Calls to a server, from any number of threads, each on a connection of its own.

    Parameters
    ----------
    address : Address
    greet : callable
        Called with each new connection, before anything else is asked; raises to refuse it.
    """

    def __init__(self, address: Address, greet: Callable[[Any], None]) -> None:
        self.url, self._prefix = address.shown, address.prefix
        self._secret = address.options.get("password")
        self._options = WAITS | address.options
        self._kind = self._options.pop("connection_class", Connection)
        self._greet = greet
        self._idle: list[_Line] = []
        self._pid, self._closed = os.getpid(), False

    def ask(self, *command: Any) -> Any:
        """The answer to a command that changes nothing, or may be done twice."""
        return self._call(command, None, False)

    def run(self, script: Script, *arguments: Any) -> Any:
        """The answer of a script that may be run twice."""
        return self._call((self._prefix, *arguments), script, False)

    def change(self, script: Script, *arguments: Any) -> Any:
        """The answer of a changing script; it is done once, also where it must be sent again."""
        return self._call(arguments, script, True)

    def close(self) -> None:
        """Close the connections."""
        self._closed = True
        while self._idle:
            self._idle.pop().connection.disconnect()

    def _call(self, arguments: tuple[Any, ...], script: Script | None, changing: bool) -> Any:
        line = self._take()
        try:
            if changing:
                line.calls += 1
                arguments = (self._prefix, line.slot, line.calls, int(time.time()), *arguments)
            return self._tried(line, arguments, script, changing)
        finally:
            self._give(line)

    def _tried(
        self, line: _Line, arguments: tuple[Any, ...], script: Script | None, changing: bool
    ) -> Any:
        end = pause = 0.0
        while True:
            try:
                return self._once(line, arguments, script)
            except (AuthenticationError, AuthorizationError):
                # Nothing of it is shown: neither who nor by what.
                raise LongrecError(
                    f"{self.url} refuses the login: give user and password that it knows, "
                    f"{self.url.partition(':')[0]}://user:password@…"
                ) from None
            except (ConnectionError, TimeoutError, ResponseError) as error:
                if isinstance(error, ResponseError) and not re.search(_BUSY, str(error)):
                    self._explain(error)
                now = time.monotonic()
                end = end or now + PATIENCE
                if now + pause > end:
                    raise StoreUnavailable(self._unreached(error, changing)) from error
            time.sleep(pause)
            pause = min(0.5, max(0.01, 2 * pause)) * random.uniform(0.75, 1.25)

    def _once(self, line: _Line, arguments: tuple[Any, ...], script: Script | None) -> Any:
        if script is None:
            return line.ask(arguments)
        try:
            return line.ask(("EVALSHA", script.sha, 0, *arguments))
        except NoScriptError:  # a server that was started anew knows none
            return line.ask(("EVAL", script.text, 0, *arguments))

    def _take(self) -> _Line:
        if self._closed:
            raise UsageError(f"{self.url} was closed")
        if self._pid != os.getpid():  # these are the parent's
            self._pid, self._idle = os.getpid(), []
        try:
            return self._idle.pop()
        except IndexError:
            return _Line(
                self._kind(
                    **self._options,
                    protocol=2,
                    retry=Retry(NoBackoff(), 0),
                    redis_connect_func=self._connected,
                )
            )

    def _give(self, line: _Line) -> None:
        if self._closed:
            line.connection.disconnect()
        else:
            self._idle.append(line)

    def _connected(self, connection: Any) -> None:
        try:
            connection.on_connect()
            self._greet(connection)
        except BaseException:
            connection.disconnect()
            raise

    def _unreached(self, error: RedisError, changing: bool) -> str:
        said = f"{self.url} cannot be reached: {self._clean(error)}"
        if changing:
            said += (
                ". What was being written may be in the store or not; an event that has an "
                "event_id may be sent again, which is harmless"
            )
        return said

    def _explain(self, error: ResponseError) -> NoReturn:
        """Raise what Redis says in words that tell what to do."""
        text = f"{type(error).__name__} {error}"
        if re.search(r"OutOfMemory|\bOOM\b", text):
            raise StoreFull(
                f"{self.url}: Redis has used the memory that maxmemory allows, and nothing of this "
                "was written. Raise it (CONFIG SET maxmemory …, and in redis.conf) or make room"
            ) from None
        if "MISCONF" in text:
            raise StoreFull(
                f"{self.url}: Redis cannot write to its disk, and nothing of this was written. "
                f"Make room there. It said: {self._clean(error)}"
            ) from None
        if re.search("ReadOnly|READONLY", text):
            raise LongrecError(
                f"{self.url} has become a read-only replica, and nothing of this was written: give "
                "the URL of its master"
            ) from None
        if re.search(r"NoPermission|NOPERM|permission", text):
            raise LongrecError(
                f"{self.url}: this user lacks a permission: {self._clean(error)}. A store needs "
                f"ACL SETUSER … ~{self._prefix.decode()}* +@all -@admin +info +config|get, and to "
                "compact +bgrewriteaof"
            ) from None
        if "WRONGTYPE" in text:
            raise DataError(
                f"{self.url}: what stands under {self._prefix.decode()!r} is no store of users; "
                "take another database or ?prefix=…"
            ) from None
        raise LongrecError(f"{self.url}: Redis answered: {self._clean(error)}") from None

    def _clean(self, error: Exception) -> str:
        """An error's text without what is secret."""
        text = str(error)
        if self._secret:
            text = text.replace(self._secret, "…")
        return text[:300]
