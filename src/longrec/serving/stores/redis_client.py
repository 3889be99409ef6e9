"""Calls to a Redis server: sent again where an answer is lost, with errors in plain words.

redis-py has connections, parsing and retries. Its pool and client are not used: they take more of
the processor's time per call than all the rest (docs/decisions/0013-redis.md). What is here:

- A call that only reads, or may be done twice, is simply sent again for some seconds. One that must
  be done once is numbered (lua/numbered.lua), in a sequence that no other call uses meanwhile.
- Each new connection is checked before anything is sent over it (redis_settings.py).
- Errors say what to do, and never show a password.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
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
from longrec.serving.stores.protocol import StoreFull, StoreUnavailable, UserDamaged
from longrec.serving.stores.redis_layout import load_scripts

PATIENCE = 6.0
"""Seconds for which a call that failed is sent again."""
PREFIX = "longrec:"
TIMEOUTS = {"socket_timeout": 10.0, "socket_connect_timeout": 3.0}
"""Seconds to wait for an answer and for a connection, unless the URL says others."""

_OPTIONS = {
    *("host", "port", "db", "username", "password", "connection_class", "client_name"),
    *("socket_timeout", "socket_connect_timeout", "socket_keepalive", "health_check_interval"),
}
_TRANSIENT = r"\b(LOADING|BUSY|MASTERDOWN|NOREPLICAS|TRYAGAIN)\b"
"""In errors of a server that will soon answer otherwise."""
_BACKOFF = ExponentialWithJitterBackoff(base=0.01, cap=0.5)


class RedisAddress(NamedTuple):
    """A Redis URL taken apart.

    public_url : the URL without credentials and options;
    prefix : what all keys begin with;
    options : what redis-py's connections take.
    """

    public_url: str
    prefix: bytes
    options: dict[str, Any]

    def __repr__(self) -> str:  # without the options, which have the password
        return f"RedisAddress({self.public_url!r})"

    @classmethod
    def parse(cls, url: str) -> RedisAddress:
        """Take a URL apart; its errors, UsageError, show no part of a password."""
        scheme = url.partition("://")[0]
        readable = True
        try:
            parts = urlsplit(url)
            if parts.fragment or "@" in parts.path + parts.query:  # of a password, not encoded
                raise ValueError
            query = parse_qsl(parts.query)
            rest = urlencode([(name, value) for name, value in query if name != "prefix"])
            options: dict[str, Any] = parse_url(  # type: ignore[no-untyped-call]
                urlunsplit(parts._replace(query=rest))
            )
            options.setdefault("db", int(parts.path.strip("/") or 0))
            host, port = parts.hostname or "localhost", parts.port or 6379
        except ValueError:  # its own text may have parts of a password: nothing is raised from it
            readable = False
        if not readable:
            raise UsageError(
                f"the URL {scheme}://… cannot be read: write {scheme}://user:password@host:6379/0, "
                "what is special in the password percent-encoded, and numbers as numbers"
            )
        prefix = dict(query).get("prefix", PREFIX)
        public_url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/{options['db']}"
        if prefix != PREFIX:
            public_url += "?" + urlencode({"prefix": prefix})
        for name in options:
            if name not in _OPTIONS and not (scheme == "rediss" and name.startswith("ssl_")):
                raise UsageError(
                    f"{public_url}: {name!r} is no option of a store's URL; there are prefix, "
                    "socket_timeout, socket_connect_timeout, socket_keepalive, "
                    "health_check_interval, client_name, and ssl_… of rediss://"
                )
        return cls(public_url, prefix.encode(), options)


class _Connection:
    """A connection, and the sequence of its numbered calls."""

    def __init__(self, connection: Any) -> None:
        self.connection, self.sequence, self.number = connection, os.urandom(8).hex(), 0

    def send(self, *command: Any) -> Any:
        try:
            packed = b"".join(self.connection.pack_command(*command))
            self.connection.send_packed_command([packed])
            return self.connection.read_response()
        except ResponseError:
            raise
        except BaseException:  # an answer may still come, and would be taken for the next one's
            self.connection.disconnect()
            raise


class RedisClient:
    """Calls to a server, from any number of threads, each on a connection of its own.

    Parameters
    ----------
    address : RedisAddress
    check_connection : callable
        Called with each new connection, before anything else is sent; raises to refuse it.

    Attributes
    ----------
    writes : how many numbered calls had written, anybody's, when the last one here was answered.
    """

    def __init__(self, address: RedisAddress, check_connection: Callable[[Any], None]) -> None:
        self.url, self._prefix = address.public_url, address.prefix
        self._password = address.options.get("password")
        self._options = TIMEOUTS | address.options
        self._connection_class = self._options.pop("connection_class", Connection)
        self._check_connection = check_connection
        self._idle: list[_Connection] = []
        self.writes = 0
        self._pid, self._closed = os.getpid(), False

    def command(self, *command: Any) -> Any:
        """The answer to a command that changes nothing, or may be done twice."""
        return self._call(lambda connection: connection.send(*command), changing=False)

    def keys(self, beginning: bytes) -> Iterator[list[bytes]]:
        """All keys of the server that begin so, some at a time."""
        cursor, pattern = b"0", re.sub(rb"([*?\[\]\\^])", rb"\\\1", beginning) + b"*"
        while True:
            cursor, keys = self.command("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
            if keys:
                yield keys
            if cursor == b"0":
                return

    def run(self, script: str, *arguments: Any) -> Any:
        """The answer of a script that may be run twice."""
        complete = (self._prefix, *arguments)
        return self._call(lambda connection: self._run(connection, script, complete), False)

    def run_once(self, script: str, *arguments: Any) -> Any:
        """The answer of a numbered script; it is done once, also where it is sent again."""
        number: int | None = None

        def call(connection: _Connection) -> Any:
            nonlocal number
            if number is None:
                number = connection.number = connection.number + 1
            numbered = (self._prefix, connection.sequence, number, int(time.time()), *arguments)
            return self._run(connection, script, numbered)

        answer = self._call(call, changing=True)
        if not isinstance(answer, bytes):
            return answer
        writes, _, answer = answer.partition(b" ")
        self.writes = max(self.writes, int(writes))
        return answer

    def close(self) -> None:
        """Close the connections; those in use, when their calls have ended."""
        self._closed = True
        while self._idle:
            self._idle.pop().connection.disconnect()

    def _run(self, connection: _Connection, script: str, arguments: tuple[Any, ...]) -> Any:
        digest, text = load_scripts()[script]
        try:
            return connection.send("EVALSHA", digest, 0, *arguments)
        except NoScriptError:  # a server that was started anew knows none
            return connection.send("EVAL", text, 0, *arguments)

    def _call(self, call: Callable[[_Connection], Any], changing: bool) -> Any:
        connection, failures, deadline = self._take(), 0, 0.0
        try:
            while True:
                try:
                    return call(connection)
                except RedisError as error:
                    failures += 1
                    deadline = deadline or time.monotonic() + PATIENCE
                    too_late = failures > 1 and time.monotonic() > deadline
                    if too_late or not _is_transient(error):
                        self._raise_in_words(error, changing)
                    time.sleep(_BACKOFF.compute(failures - 1))
        finally:
            if self._closed:
                connection.connection.disconnect()
            else:
                self._idle.append(connection)

    def _take(self) -> _Connection:
        if self._closed:
            raise UsageError(f"{self.url} was closed")
        if self._pid != os.getpid():  # these are the parent's
            self._pid, self._idle = os.getpid(), []
        try:
            return self._idle.pop()
        except IndexError:
            return _Connection(
                self._connection_class(
                    **self._options,
                    protocol=2,
                    retry=Retry(NoBackoff(), 0),
                    redis_connect_func=self._connected,
                )
            )

    def _connected(self, connection: Any) -> None:
        try:
            connection.on_connect()
            self._check_connection(connection)
        except BaseException:
            connection.disconnect()
            raise

    def _raise_in_words(self, error: RedisError, changing: bool) -> NoReturn:
        """Raise what went wrong in words that say what to do, and show no password."""
        answer = str(error)
        if self._password:
            answer = answer.replace(self._password, "…")
        answer = answer[:300]
        if isinstance(error, AuthenticationError | AuthorizationError):
            # Nothing of it is shown: neither who nor by what.
            raise LongrecError(
                f"{self.url} refuses the login: give user and password that it knows, "
                f"{self.url.partition(':')[0]}://user:password@…"
            ) from None
        if _is_transient(error):
            message = f"{self.url} cannot be reached: {answer}"
            if changing:
                message += (
                    ". What was being written may be in the store or not; an event that has an "
                    "event_id may be sent again, which is harmless"
                )
            raise StoreUnavailable(message) from error
        text = error_text(error)
        if "DAMAGED" in text:
            raise UserDamaged(
                f"{self.url}: what stands of a user's log does not fit its checksum, and nothing "
                "of this was written"
            ) from None
        if "WRONGTYPE" in text:
            raise self.no_store() from None
        if re.search(r"OutOfMemory|\bOOM\b", text):
            raise self.out_of_memory() from None
        if "MISCONF" in text:
            raise StoreFull(
                f"{self.url}: Redis cannot write to its disk, and nothing of this was written. "
                f"Make room there. It said: {answer}"
            ) from None
        if re.search("ReadOnly|READONLY", text):
            words = (
                " has become a read-only replica, and nothing of this was written: give the URL of "
                "its master"
            )
        elif re.search(r"NoPermission|NOPERM|permission", text):
            words = (
                f": this user lacks a permission: {answer}. A store needs ACL SETUSER … "
                f"~{self._prefix.decode()}* +@all -@admin +info +config|get, and to compact "
                "+bgrewriteaof"
            )
        else:
            words = f": Redis answered: {answer}"
        raise LongrecError(self.url + words) from None

    def out_of_memory(self) -> StoreFull:
        """The error where Redis may take no more memory."""
        return StoreFull(
            f"{self.url}: Redis has used the memory that maxmemory allows, and nothing of this was "
            "written. Raise it (CONFIG SET maxmemory …, and in redis.conf) or make room"
        )

    def no_store(self) -> DataError:
        """The error where something else stands under the store's keys."""
        return DataError(
            f"{self.url}: what stands under {self._prefix.decode()!r} is no store of users; "
            "take another database or ?prefix=…"
        )


def error_text(error: Exception) -> str:
    """Kind and text of an error; redis-py puts the first word of an answer into either."""
    return f"{type(error).__name__} {error}"


def _is_transient(error: Exception) -> bool:
    """Whether the same call may soon succeed."""
    if isinstance(error, AuthenticationError | AuthorizationError):
        return False
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    return re.search(_TRANSIENT, error_text(error)) is not None
