"""Where the master is that Sentinels watch: asked for each new connection, since it may move."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

from redis.backoff import NoBackoff
from redis.connection import SSLConnection
from redis.exceptions import ConnectionError, RedisError, ResponseError
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from longrec.core.errors import LongrecError
from longrec.serving.stores.redis_address import RedisAddress

TIMEOUT = 1.0
"""Seconds that a Sentinel has to answer before the next one is asked."""


def find_master(address: RedisAddress) -> tuple[str, int]:
    """Host and port of the master, as the first Sentinel has it that knows one that is up.

    Raises
    ------
    ConnectionError
        When none does, for now.
    LongrecError
        When they refuse the login.
    """
    options: dict[str, Any] = {
        name: value for name, value in address.options.items() if name.startswith("ssl_")
    }
    if address.options.get("connection_class") is SSLConnection:
        options["ssl"] = True
    options |= address.login | {"socket_timeout": TIMEOUT, "socket_connect_timeout": TIMEOUT}
    options |= {"protocol": 2, "retry": Retry(NoBackoff(), 0)}
    silent = []
    for host, port in address.sentinels:
        sentinel = Sentinel(  # type: ignore[no-untyped-call]
            [(host, port)], sentinel_kwargs=options
        )
        try:
            found = sentinel.discover_master(address.master)  # type: ignore[no-untyped-call]
            return str(found[0]), int(found[1])
        except (MasterNotFoundError, ResponseError) as error:
            why = str(error)
        finally:
            with suppress(RedisError):
                sentinel.sentinels[0].close()
        if re.search("[Aa]uthentication|WRONGPASS|NOAUTH", why):
            raise LongrecError(
                f"{address.public_url}: the Sentinel at {host}:{port} refuses the login: give "
                "?sentinel_password=…, and ?sentinel_username=… where it has one"
            )
        if " : " in why:  # what redis-py found stands behind its own description of the Sentinel
            silent.append(f"{host}:{port}: {why.rpartition(' - ')[2][:200]}")
    words = f"no Sentinel knows a master {address.master!r} that is up"
    if silent:
        raise ConnectionError(f"{words}, and these do not answer: {'; '.join(silent)}")
    raise ConnectionError(
        f"{words}: is that its name in sentinel.conf (sentinel monitor NAME …), and is it running?"
    )
