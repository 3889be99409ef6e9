"""Where the master is that Sentinels watch, and how many replicas follow it: both may change."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

from redis.backoff import NoBackoff
from redis.connection import SSLConnection
from redis.exceptions import ConnectionError, RedisError
from redis.retry import Retry
from redis.sentinel import Sentinel

from longrec.core.errors import LongrecError
from longrec.serving.stores.redis_address import RedisAddress

TIMEOUT = 1.0
"""Seconds that a Sentinel has to answer."""


class Master(NamedTuple):
    """Host and port; and how many replicas must have a write before it is acknowledged.

    Where the address does not say: all that the Sentinels see follow it, since they may choose any
    of them as the next master; one at least.
    """

    host: str
    port: int
    replicas: int


_Place = tuple[str, int]
_State = tuple[dict[str, Any], list[dict[str, Any]]]
"""What a Sentinel says of a master and of its replicas."""


class Sentinels:
    """What the Sentinels of an address say; for any number of threads.

    One that did not answer is asked beside the others from then on, and not waited for while any
    of these does: it may stand on the machine whose loss the others have to tell of.
    """

    def __init__(self, address: RedisAddress) -> None:
        self._address, self._lock = address, threading.Lock()
        self._asked, self._found = float("-inf"), Master("", 0, 0)
        self._silent: dict[_Place, str] = {}
        self._tried = set[_Place]()

    def master(self, since: float) -> Master:
        """The master as it was at some time after `since`, on the monotonic clock.

        Raises
        ------
        ConnectionError
            When there is none for now.
        LongrecError
            When a Sentinel refuses the login.
        """
        with self._lock:
            if self._asked < since:
                asked = time.monotonic()
                self._found, self._asked = self._ask(), asked
            return self._found

    def _ask(self) -> Master:
        """Ask all of them: one alone may not know yet that another one is replacing the master."""
        name, silent = self._address.master, list(self._silent)
        states = self._answers([one for one in self._address.sentinels if one not in silent])
        if states:
            for place in silent:
                self._try_beside(place)
        else:
            states = self._answers(silent)
        if not states:
            words = f"no Sentinel knows a master {name!r}"
            if self._silent:
                errors = "; ".join(list(self._silent.values()))
                raise ConnectionError(f"{words}, and these do not answer: {errors}")
            raise ConnectionError(
                f"{words}: is that its name in sentinel.conf (sentinel monitor NAME …)?"
            )
        state, followers = max(states, key=lambda one: int(one[0]["config-epoch"]))
        where = f"{state['ip']}:{state['port']}"
        if any("failover_in_progress" in one["flags"] for one, _ in states):
            raise ConnectionError(f"a replica is taking over from the master {name!r}, {where}")
        if not state["is_master"] or state["is_sdown"] or state["is_odown"]:
            raise ConnectionError(f"the master {name!r}, {where}, does not answer its Sentinels")
        replicas = self._address.replicas
        if replicas is None:
            replicas = max(1, sum(map(_follows, followers)))
        return Master(str(state["ip"]), int(state["port"]), replicas)

    def _answers(self, places: Sequence[_Place]) -> list[_State]:
        """What those say who know the master; all are asked at once."""
        if not places:
            return []
        with ThreadPoolExecutor(len(places), "longrec-sentinels") as threads:
            found = list(threads.map(self._answer, places))
        return [one for one in found if one is not None]

    def _answer(self, place: _Place) -> _State | None:
        """What one says; None: it knows no such master, or is silent, which is noted."""
        host, port = place
        try:
            found = self._ask_one(host, port)
        except (RedisError, OSError) as error:
            if re.search("[Aa]uthentication|WRONGPASS|NOAUTH", str(error)):
                raise LongrecError(
                    f"{self._address.public_url}: the Sentinel at {host}:{port} refuses the "
                    "login: give ?sentinel_password=…, and ?sentinel_username=… if it has one"
                ) from None
            self._silent[place] = f"{host}:{port}: {str(error)[:200]}"
            return None
        self._silent.pop(place, None)
        return found

    def _try_beside(self, place: _Place) -> None:
        """Ask one that was silent in a thread of its own, unless that is being done."""

        def ask() -> None:
            try:
                with suppress(LongrecError):  # told when it is asked with the others
                    self._answer(place)
            finally:
                self._tried.discard(place)

        if place not in self._tried:
            self._tried.add(place)
            threading.Thread(target=ask, name="longrec-sentinel", daemon=True).start()

    def _ask_one(self, host: str, port: int) -> _State | None:
        """What a Sentinel says of the master and of its replicas; None: it knows no such master."""
        options: dict[str, Any] = {
            name: value for name, value in self._address.options.items() if name.startswith("ssl_")
        }
        options |= self._address.login | {"protocol": 2, "retry": Retry(NoBackoff(), 0)}
        options |= {"socket_timeout": TIMEOUT, "socket_connect_timeout": TIMEOUT}
        options["ssl"] = self._address.options.get("connection_class") is SSLConnection
        group = Sentinel([(host, port)], sentinel_kwargs=options)  # type: ignore[no-untyped-call]
        [sentinel] = group.sentinels
        try:
            masters: Any = sentinel.sentinel_masters()
            state = masters.get(self._address.master)
            if state is None:
                return None
            return state, sentinel.sentinel_slaves(self._address.master)
        finally:
            with suppress(RedisError):
                sentinel.close()


def _follows(replica: dict[str, Any]) -> bool:
    """Whether a replica is up and follows, as a Sentinel saw it last."""
    away = replica["is_sdown"] or replica["is_odown"] or replica["is_disconnected"]
    return not away and replica.get("master-link-status") == "ok"
