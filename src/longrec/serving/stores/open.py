"""From a URL to an open store."""

from __future__ import annotations

import os
import re
from typing import Any

from longrec.core.arguments import described
from longrec.core.choices import Durability, check_choice
from longrec.core.errors import UsageError, absent
from longrec.serving.stores.protocol import Store

SHARED = ("redis", "rediss", "redis+sentinel", "rediss+sentinel")
"""Schemes of stores that several processes share."""
BETWEEN = rf",(?=(?:{'|'.join(map(re.escape, SHARED))})://)"
"""What stands between the servers of one store."""


def check_url(url: Any, durability: Any) -> str:
    """The URL of a store, as text; UsageError where it or the durability is of no kind."""
    check_choice("durability", durability, Durability)
    if isinstance(url, os.PathLike):
        url = os.fspath(url)
    if not isinstance(url, str):
        raise UsageError(f"url is {described(url)}; give lmdb:///folder, a path or redis://host/0")
    return url


def scheme_of(url: str) -> tuple[str, str]:
    """What stands before :// in a store's URL, and behind it; a path is one of LMDB."""
    scheme, separator, rest = url.partition("://")
    return (scheme, rest) if separator else ("lmdb", url.removeprefix("lmdb:"))


def open_store(url: str, durability: Durability = "power", readonly: bool = False) -> Store:
    """Open a store: `lmdb:///folder` (or a path), `redis://host/0`, `rediss://…` with TLS, the
    master that Sentinels know, `redis+sentinel://one:26379,two:26379/NAME/0`, or several Redis
    servers, `redis://one/0,redis://two/0`, over which users are spread.

    Parameters
    ----------
    url : str
        A folder of LMDB's is made if need be. Three slashes begin a path from the root, as in
        `lmdb:///var/lib/shop/users`, two a relative one.
    durability : {"power", "process"}
        What acknowledged events survive.
    readonly : bool
        Open a store that must exist, beside the process that writes to it.

    Raises
    ------
    UsageError
        When the URL or the durability is none, or the store's package is not installed.
    DataError
        When what stands there is no store of users, or one of a newer schema.
    LongrecError
        When another process writes to it, it cannot be reached, or it is not set up to keep what
        is acknowledged.
    """
    scheme, rest = scheme_of(url := check_url(url, durability))
    try:
        if scheme == "lmdb":
            from longrec.serving.stores.lmdb_store import LmdbStore

            if not rest:
                raise UsageError(f"{url!r} names no folder: lmdb:///folder/of/the/store")
            return LmdbStore(rest, durability, readonly)
        if scheme in SHARED:
            from longrec.serving.stores.spread_store import open_redis

            return open_redis(re.split(BETWEEN, url), durability, readonly)
    except ModuleNotFoundError as error:
        raise absent(f"a store at {scheme}://", error, "serve") from error
    if scheme == "sqlite":
        raise UsageError(
            f"stores in SQLite were of longrec 0.1.0; carry this one over with: longrec store "
            f"restore {url} lmdb:///a/new/folder"
        )
    raise UsageError(
        f"{scheme}:// is no store; use lmdb:///folder, redis://host/0, rediss://… or "
        "redis+sentinel://host:26379/NAME/0"
    )
