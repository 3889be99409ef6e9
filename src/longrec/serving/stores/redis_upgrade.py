"""A Redis store of schema 1 or 2 carried over: the same keys, without checksums.

    meta          JSON
    user:USER     id and length of the user's log, in decimals
    log:LOG:N     events, each with its size before it

Each user's log is written anew beside the old one, then the user's key names the new one.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import chain
from typing import Any

from longrec.core.errors import DataError, UsageError
from longrec.serving.stores.checks import pack_meta, unpack_meta
from longrec.serving.stores.encoding import unpack_event
from longrec.serving.stores.protocol import SCHEMA, Event, check_not_newer
from longrec.serving.stores.redis_address import RedisAddress
from longrec.serving.stores.redis_cleanup import RedisCleanup
from longrec.serving.stores.redis_client import RedisClient
from longrec.serving.stores.redis_layout import BLOCK_EVENTS, in_parts, log_pairs, pack_head
from longrec.serving.stores.redis_settings import check_server

_SIZE = struct.Struct("<I")
USERS, BLOCKS = 1000, 64
"""Users listed, and blocks of a log read, at once."""


def upgrade_server(
    url: str, progress: Callable[[int, int], None] | None = None
) -> tuple[str, int, int]:
    """Carry over what stands under a URL's prefix; -> the URL to be shown, users and events."""
    address = RedisAddress.parse(url)
    name = address.public_url

    def check(connection: Any) -> None:
        check_server(connection, "process", name)

    client = RedisClient(address, check)
    with closing(client):
        upgrade = _Upgrade(client, address.prefix, name)
        upgrade.begin()
        for user in upgrade.users():
            upgrade.carry_over(user)
            if progress is not None:
                progress(upgrade.events, upgrade.events)
        upgrade.end()
        return name, upgrade.done, upgrade.events


class _Upgrade:
    def __init__(self, client: RedisClient, prefix: bytes, name: str) -> None:
        self._client, self._prefix, self._name = client, prefix, name
        self._cleanup = RedisCleanup(client, name, prefix)
        self.done = self.events = 0

    def begin(self) -> None:
        """Mark the store as one that is carried over, which nobody opens; drop records."""
        text = self._client.command("GET", self._prefix + b"meta")
        meta = unpack_meta(text or b"")
        if meta is None:
            raise DataError(f"{self._name}: there is no store of users under this prefix")
        check_not_newer(meta, self._name)
        if meta.get("schema") == SCHEMA and "upgrading" not in meta:
            raise UsageError(
                f"{self._name} is of this longrec's schema, {SCHEMA}: it needs no upgrade"
            )
        gone = ("rebuild", "upgrading")
        self._meta = {key: value for key, value in meta.items() if key not in gone}
        self._meta |= {"schema": SCHEMA, "id": secrets.token_hex(8)}
        self._set(b"meta", pack_meta(self._meta | {"upgrading": True}))
        for caches in (b"record:", b"pages:", b"seen:"):
            for keys in self._client.keys(self._prefix + caches):
                self._client.command("UNLINK", *keys)
        self._set(b"abandoned", b"1")  # as old logs will be

    def users(self) -> Iterator[bytes]:
        """All users that are listed."""
        start = b"-"
        command = ("ZRANGEBYLEX", self._prefix + b"users")
        while users := self._client.command(*command, start, "+", "LIMIT", 0, USERS):
            yield from users
            start = b"(" + users[-1]

    def carry_over(self, user: bytes) -> None:
        """Write a user's log anew, unless that is done."""
        head = (self._client.command("GET", self._prefix + b"user:" + user) or b"").split(b" ")
        if len(head) == 2:
            events = self._old_log(user, int(head[0]), int(head[1]))
            log_id = self._client.command("INCR", self._prefix + b"born")
            pairs = log_pairs(user, events, log_id)
            calls = (((self._prefix + key, value), len(value), 1) for key, value in pairs)
            for part in in_parts(calls):
                self._client.command("MSET", *chain(*part))
            self._set(b"user:" + user, pack_head(user, log_id, len(events)))
        if len(head) > 1:
            self.done += 1
            self.events += int(head[1])

    def end(self) -> None:
        """Delete the old logs; from now on it is a store."""
        self._cleanup.erase_abandoned()
        self._set(b"meta", pack_meta(self._meta))

    def _old_log(self, user: bytes, log_id: int, length: int) -> list[Event]:
        numbers = range(-(-length // BLOCK_EVENTS))
        events: list[Event] = []
        for start in numbers[::BLOCKS]:
            keys = [b"log:%d:%d" % (log_id, n) for n in numbers[start : start + BLOCKS]]
            blocks = self._client.command("MGET", *[self._prefix + key for key in keys])
            events.extend(chain.from_iterable(_old_block(block or b"") for block in blocks))
        if len(events) < length:
            raise DataError(
                f"{self._name} is damaged, the log {log_id} lacks events: restore a backup"
            )
        return events[:length]

    def _set(self, key: bytes, value: Any) -> None:
        self._client.command("SET", self._prefix + key, value)


def _old_block(block: bytes) -> Iterator[Event]:
    """The events of a block, each with its size before it."""
    start = 0
    while start < len(block):
        end = start + _SIZE.size + _SIZE.unpack_from(block, start)[0]
        yield unpack_event(block[start + _SIZE.size : end])
        start = end
