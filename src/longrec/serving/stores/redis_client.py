"""Calls to a Redis server: sent again where an answer is lost, with errors in plain words.

redis-py has connections, parsing and retries. Its pool and client are not used: they take more of
the processor's time per call than all the rest (docs/decisions/0013-redis.md). What is here:

- A call that only reads, or may be done twice, is simply sent again for some seconds. One that must
  be done once is numbered (lua/numbered.lua), in a sequence that no other call uses meanwhile.
- Each new connection is checked before anything is sent over it (redis_settings.py).
- Behind Sentinels a connection is to the master that they name; after a failure, and each second,
  they are asked again.
- A write that replicas must have waits for them in the same exchange (WAIT); where they are too
  few, the call fails as if its answer were lost: it is sent again, to the master there is then.
- A server that is away is asked by one call at a time once some seconds have passed; others are
  told at once, so that those who share a thread with them need not wait.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.connection import Connection
from redis.exceptions import (
    ConnectionError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.retry import Retry

from longrec.core.errors import UsageError
from longrec.serving.stores.protocol import StoreUnavailable
from longrec.serving.stores.redis_address import RedisAddress
from longrec.serving.stores.redis_errors import TooFewReplicas, in_words, is_transient
from longrec.serving.stores.redis_layout import load_scripts
from longrec.serving.stores.redis_sentinel import Sentinels

PATIENCE = 6.0
"""Seconds for which a call that failed is sent again."""
TIMEOUTS = {"socket_timeout": 10.0, "socket_connect_timeout": 3.0}
"""Seconds to wait for an answer and for a connection, unless the URL says others."""
WAIT = 1.0
"""Seconds that replicas have to take a write before it is sent again, or half of socket_timeout."""
LOOK = 1.0
"""Seconds for which it counts what Sentinels said."""
_BACKOFF = ExponentialWithJitterBackoff(base=0.01, cap=0.5)


class _Connection:
    """A connection, and the sequence of its numbered calls.

    Attributes
    ----------
    run : what the check of the connection gave, when it was last made.
    """

    def __init__(self, connection: Any, replicas: int, sentinels: Sentinels | None) -> None:
        self._connection, self._replicas, self._sentinels = connection, replicas, sentinels
        self.sequence, self.number = os.urandom(8).hex(), 0
        self.run: Any = None
        self._is_open, self._closed, self._look_after = False, 0.0, 0.0
        self._milliseconds = max(1, int(1000 * min(WAIT, connection.socket_timeout / 2)))

    def send(self, *command: Any, settled: bool = False) -> Any:
        """The answer to a command; `settled`: once as many replicas have it as must."""
        connection = self._connection
        try:
            self._open()
            settled = settled and self._replicas > 0
            packed = connection.pack_command(*command)
            if settled:
                packed += connection.pack_command("WAIT", self._replicas, self._milliseconds)
            connection.send_packed_command([b"".join(packed)])
            try:
                answer: Any = connection.read_response()
            except ResponseError as error:
                answer = error
            found = connection.read_response() if settled else self._replicas
            if isinstance(answer, ReadOnlyError) and self._sentinels is not None:
                raise ConnectionError("this master has become a replica")
            if isinstance(answer, ResponseError):
                raise answer
            if found < self._replicas:
                raise TooFewReplicas(
                    f"{found} of {self._replicas} replicas have what was written: start one "
                    "(replicaof …), or say by ?replicas= how many must have it"
                )
            return answer
        except ResponseError:
            raise
        except BaseException:  # an answer may still come, and would be taken for the next one's
            self.close()
            raise

    def close(self) -> None:
        """Close it; it is made anew when something is sent."""
        self._is_open, self._closed, self._look_after = False, time.monotonic(), 0.0
        self._connection.disconnect()

    def _open(self) -> None:
        """See that it is connected, and to the master, if there are Sentinels."""
        if self._sentinels is not None and (now := time.monotonic()) > self._look_after:
            try:
                master = self._sentinels.master(max(now - LOOK, self._closed))
            except ConnectionError:  # an open one goes on where Sentinels are away
                if not self._is_open:
                    raise
            else:
                if (master.host, master.port) != (self._connection.host, self._connection.port):
                    self.close()
                    self._connection.host, self._connection.port = master.host, master.port
                self._replicas = master.replicas
            self._look_after = time.monotonic() + LOOK  # the asking may have taken long
        if not self._is_open:
            self._connection.connect()
            self._is_open = True


class _Away:
    """Whether calls of a kind fail, and since when; one at a time is let through then."""

    def __init__(self) -> None:
        self.since, self._asking = 0.0, threading.Lock()

    @contextmanager
    def turn(self, url: str) -> Iterator[None]:
        """Around a call; StoreUnavailable where it need not be tried."""
        known = self.since and time.monotonic() - self.since > PATIENCE
        if not known:
            yield
            return
        if not self._asking.acquire(blocking=False):
            seconds = time.monotonic() - self.since
            raise StoreUnavailable(
                f"{url} cannot be reached: it has not answered for {seconds:.0f} s, and nothing of "
                "this was sent"
            )
        try:
            yield
        finally:
            self._asking.release()


class RedisClient:
    """Calls to a server, from any number of threads, each on a connection of its own.

    Parameters
    ----------
    address : RedisAddress
    check_connection : callable
        Called with each new connection, before anything else is sent; raises to refuse it. What it
        gives tells to which run of a server the connection is: connections to others are closed.

    Attributes
    ----------
    writes : how many numbered calls had written, anybody's, when the last one here was done.
    """

    def __init__(self, address: RedisAddress, check_connection: Callable[[Any], Any]) -> None:
        self.url, self._prefix, self._address = address.public_url, address.prefix, address
        self._options = TIMEOUTS | address.options
        self._connection_class = self._options.pop("connection_class", Connection)
        self._check_connection = check_connection
        self._run_now: Any = None
        self.writes = 0
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        """In a process: what is a parent's is not used."""
        self._pid, self._idle = os.getpid(), list[_Connection]()
        self._away = {False: _Away(), True: _Away()}
        self._sentinels = Sentinels(self._address) if self._address.sentinels else None

    def command(self, *command: Any, settled: bool = False) -> Any:
        """The answer to a command that changes nothing, or may be done twice.

        settled : wait until as many replicas as must have what was written before this answer.
        """
        return self._call(
            lambda connection: connection.send(*command, settled=settled), False, settled
        )

    def keys(self, beginning: bytes) -> Iterator[list[bytes]]:
        """All keys of the server that begin so, some at a time."""
        cursor, pattern = b"0", re.sub(rb"([*?\[\]\\^])", rb"\\\1", beginning) + b"*"
        while True:
            cursor, keys = self.command("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
            if keys:
                yield keys
            if cursor == b"0":
                return

    def read(self, script: str, *arguments: Any) -> tuple[Any, Any]:
        """The answer of a script that changes nothing, and what the connection's check gave."""
        complete = (self._prefix, *arguments)

        def call(connection: _Connection) -> tuple[Any, Any]:
            return self._run(connection, script, complete, False), connection.run

        found: tuple[Any, Any] = self._call(call, False)
        return found

    def run(self, script: str, *arguments: Any, settled: bool = False) -> Any:
        """The answer of a script that may be run twice; `settled` as of `command`."""
        complete = (self._prefix, *arguments)
        return self._call(
            lambda connection: self._run(connection, script, complete, settled), False, settled
        )

    def run_once(self, script: str, *arguments: Any) -> Any:
        """The answer of a numbered script; it is done once, also where it is sent again, and
        settled."""
        number: int | None = None

        def call(connection: _Connection) -> Any:
            nonlocal number
            if number is None:
                number = connection.number = connection.number + 1
            numbered = (self._prefix, connection.sequence, number, int(time.time()), *arguments)
            return self._run(connection, script, numbered, True)

        answer = self._call(call, True, True)
        if not isinstance(answer, bytes):
            return answer
        writes, _, answer = answer.partition(b" ")
        self.writes = int(writes)
        return answer

    def close(self) -> None:
        """Close the connections; those in use, when their calls have ended."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    def _run(
        self, connection: _Connection, script: str, arguments: tuple[Any, ...], settled: bool
    ) -> Any:
        digest, text = load_scripts()[script]
        try:
            return connection.send("EVALSHA", digest, 0, *arguments, settled=settled)
        except NoScriptError:  # a server that was started anew knows none
            return connection.send("EVAL", text, 0, *arguments, settled=settled)

    def _call(
        self, call: Callable[[_Connection], Any], changing: bool, settled: bool = False
    ) -> Any:
        """What a call gives.

        changing : whether its errors say that it may have been done.
        settled : whether it waits for replicas; such calls may fail where others do not.
        """
        if self._pid != os.getpid():
            self._begin()
        away = self._away[settled]
        with away.turn(self.url):
            connection, failures, deadline = self._take(), 0, 0.0
            try:
                while True:
                    try:
                        answer = call(connection)
                    except RedisError as error:
                        failures += 1
                        now = time.monotonic()
                        deadline = deadline or now + PATIENCE
                        away.since = away.since or now
                        too_late = now > min(deadline, away.since + PATIENCE)
                        if not is_transient(error):
                            away.since = 0.0
                            raise in_words(error, self._address, changing) from None
                        if failures > 1 and too_late:
                            raise in_words(error, self._address, changing) from error
                        if self._sentinels is not None:
                            connection.close()  # to ask where the master is
                        time.sleep(_BACKOFF.compute(failures - 1))
                    else:
                        away.since = 0.0
                        return answer
            finally:
                if self._closed:
                    connection.close()
                else:
                    self._idle.append(connection)

    def _take(self) -> _Connection:
        if self._closed:
            raise UsageError(f"{self.url} was closed")
        try:
            connection = self._idle.pop()
        except IndexError:
            return self._made()
        if connection.run != self._run_now:  # to a server that is not the one any more
            connection.close()
        return connection

    def _made(self) -> _Connection:
        def connected(raw: Any) -> None:
            try:
                raw.on_connect()
                made.run = self._run_now = self._check_connection(raw)
            except BaseException:
                raw.disconnect()
                raise

        raw = self._connection_class(
            **self._options,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            redis_connect_func=connected,
        )
        made = _Connection(raw, self._address.replicas or 0, self._sentinels)
        return made
