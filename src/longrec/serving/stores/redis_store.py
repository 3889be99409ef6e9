"""The store that replicas share: a Redis server, where one script holds an event and its record.

Any number of processes may write to it, and of one user too: Redis does one script after the other,
and that is the order of the log. What is appended in one call is one script, if it is of at most
8 MiB and some thousands of keys: it is in the store as a whole or not at all, and is one sync.

power : Redis must sync its append-only file before it answers (`appendfsync always`).
process : `appendfsync everysec` does. Events survive the end of the process that sent them. If
    Redis itself is killed while its disk syncs, what it acknowledged meanwhile may be lost, up to
    two seconds of it; in a power cut more.

Not supported is Redis Cluster, and the promises are those of one server: a failover to a replica of
Redis may lose what was acknowledged. Give it a server of its own: one that other programs write
transactions to (MULTI, or scripts that write several keys) may lose events if it is killed while it
writes one, and again soon after the next start. Redis's snapshots (dump.rdb) are backups, and hold
users that were forgotten until the next one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, TypeVar

from longrec.core.errors import DataError
from longrec.serving.stores.protocol import (
    SCHEMA,
    Append,
    Appended,
    Durability,
    Event,
    Kept,
    Put,
    Rewrite,
    StoreFull,
    Totals,
    check_schema,
)
from longrec.serving.stores.redis_link import Address, Link
from longrec.serving.stores.redis_scripts import (
    APPEND,
    BLOCK,
    COUNT,
    DROP,
    ERASE,
    ERASED,
    EVENTS,
    META,
    PAGE,
    PUT,
    READ,
    REPLACE,
    UNLIST,
    USERS,
    Script,
)
from longrec.serving.stores.redis_settings import check_server, end_transaction, parse_info
from longrec.serving.stores.redis_values import (
    join_bitmap,
    keys_of,
    pack_event,
    split_bitmap,
    unpack_block,
)

T = TypeVar("T")
BYTES = 2**23
"""Bytes that one script is given, about."""
KEYS = 3600
"""Keys that one script may write; Lua has room for no more than 3,990."""
PIECE = 1024
"""Events of one user that one script logs; a multiple of BLOCK."""
AT_ONCE = 256
"""Users that one script reads."""
LISTED = 1000
"""Users that one script lists."""
DROPPED = 20
"""Users whose records one script deletes."""
LEFT = 3600
"""Seconds after which what was left half done is deleted, when the store is compacted."""


class RedisStore:
    """A `Store` on a Redis server."""

    def __init__(self, address: Address, durability: Durability) -> None:
        self._url, self._prefix, self._durability = address.shown, address.prefix, durability
        self._link = Link(address, self._greet)
        self._digests: set[str] = set()

    @classmethod
    def open(cls, url: str, durability: Durability = "power", readonly: bool = False) -> RedisStore:
        """Open the store at `redis://user:password@host:6379/0?prefix=longrec:`, or `rediss://…`.

        Its errors are those of `open_store`. All keys begin with the prefix.
        """
        store = cls(Address(url), durability)
        try:
            meta = store.meta()
            check_schema(meta, store.url)
            if "schema" not in meta:
                if readonly:
                    raise DataError(f"{store.url}: there is no store of users under this prefix")
                store.change_meta(lambda new: new.setdefault("schema", SCHEMA))
            return store
        except BaseException:
            store.close()
            raise

    @property
    def url(self) -> str:
        return self._url

    @property
    def durability(self) -> Durability:
        return self._durability

    def read(
        self, digest: str, asked: Sequence[tuple[bytes, Sequence[bytes]]], seen: bool = False
    ) -> list[Kept]:
        answers, kept = [], []
        for start in range(0, len(asked), AT_ONCE):
            some = asked[start : start + AT_ONCE]
            users = [part for user, names in some for part in (user, len(names), *names)]
            answers += self._link.run(READ, digest, int(seen), *users)
        for answer, (_, names) in zip(answers, asked, strict=True):
            if answer is None:
                kept.append(Kept(0, 0, None, b"", (False,) * len(names)))
            else:
                born, last, record, numbers, pages, known = answer
                bitmap = join_bitmap(numbers, pages)
                kept.append(Kept(int(born), int(last), record, bitmap, tuple(map(bool, known))))
        return kept

    def events(self, user: bytes, born: int, after: int, limit: int) -> list[Event]:
        first = after // BLOCK
        found = self._link.run(EVENTS, user, born, first, (after + limit - 1) // BLOCK)
        if not found:
            return []
        last, *blocks = found
        events = [event for block in blocks for event in unpack_block(block)]
        end = min(int(last), after + limit) - first * BLOCK
        return events[after - first * BLOCK : max(end, 0)]

    def append(self, digest: str, appends: Sequence[Append]) -> list[Appended]:
        """More than 1,024 events of one user are logged in several steps."""
        self._note(digest)
        done: dict[bytes, Appended] = {}
        short = [one for one in appends if len(one.events) <= PIECE]
        for part in _parts((one, *_size(one)) for one in short):
            for one, appended in zip(part, self._append(digest, part), strict=True):
                done[one.user] = appended
        for one in appends:
            if len(one.events) > PIECE:
                done[one.user] = self._append_long(digest, one)
        return [done[one.user] for one in appends]

    def put(self, digest: str, puts: Sequence[Put]) -> int:
        self._note(digest)
        calls = []
        for put in puts:
            version = put.version.to_bytes(8, "little")
            numbers, pages = split_bitmap(put.seen)
            call = [put.user, put.born, version, put.record, numbers, *pages]
            calls.append((call, len(put.record) + len(put.seen), 2 + len(pages)))
        return sum(int(self._link.change(PUT, digest, *chain(*part))) for part in _parts(calls))

    def rewrite(self, rewrites: Sequence[Rewrite]) -> list[bool]:
        """Each log is built beside the old one, however long, and takes its place in one step.

        What a killed process leaves of either is deleted by `compact`, after an hour.
        """
        if not rewrites:
            return []
        borns = self._borns(len(rewrites))
        new = [(born, len(one.events), one.user) for born, one in zip(borns, rewrites, strict=True)]
        old = [(one.born, one.last, one.user) for one in rewrites if one.born]
        self._note_old(new + old)
        pairs = chain.from_iterable(
            keys_of(one.events[start : start + PIECE], born, start)
            for born, one in zip(borns, rewrites, strict=True)
            for start in range(0, len(one.events), PIECE)
        )
        for part in _parts(((self._prefix + key, value), len(value), 1) for key, value in pairs):
            self._link.ask("MSET", *chain(*part))
        calls = [
            ([one.user, one.born, one.last, born, len(one.events)], 0, 1)
            for born, one in zip(borns, rewrites, strict=True)
        ]
        said = b"".join(self._with_new(REPLACE, chain(*part)) for part in _parts(calls))
        done = [flag == ord("1") for flag in said]
        gone = [new[n] for n in range(len(done)) if not done[n]]
        gone += [(one.born, one.last, one.user) for n, one in enumerate(rewrites) if done[n]]
        self._erase([one for one in gone if one[0]])
        self._link.ask("HDEL", self._prefix + b"old", *[one[0] for one in new + old])
        return done

    def forget(self, user: bytes) -> bool:
        had = False
        while True:
            [kept] = self.read("", [(user, ())])
            if not kept.born:
                self._link.run(UNLIST, user)
                return had
            had, log = True, (kept.born, kept.last, user)
            if kept.last > ERASED:
                with suppress(StoreFull):  # forgetting is what makes room
                    self._note_old([log])
            if self._erase([log]) and kept.last > ERASED:
                self._link.ask("HDEL", self._prefix + b"old", kept.born)

    def users(self, after: bytes, limit: int) -> list[bytes]:
        users: list[bytes] = []
        for page in self._pages(after, limit):
            users += page
            if len(users) >= limit:
                break
        return users[:limit]

    def meta(self) -> dict[str, Any]:
        return self._load(self._meta())

    def change_meta(self, change: Callable[[dict[str, Any]], T]) -> T:
        while True:
            before = self._meta()
            meta = self._load(before)
            done = change(meta)
            if self._link.change(META, before, json.dumps(meta)) == b"1":
                return done

    def drop(self, digest: str) -> int:
        dropped = 0
        for users in self._pages(b"", DROPPED):
            dropped += self._link.run(COUNT, 1, digest, *users)[2]
            self._link.run(DROP, digest, *users)
        return dropped

    def totals(self) -> Totals:
        """Figures of this store, counted now; the bytes are the memory of the whole server."""
        digests = sorted(self._link.ask("SMEMBERS", self._prefix + b"digests"))
        counts = [0] * (2 + len(digests))
        for users in self._pages(b"", LISTED):
            found = self._link.run(COUNT, len(digests), *digests, *users)
            counts = [a + b for a, b in zip(counts, found, strict=True)]
        records = zip(digests, counts[2:], strict=True)
        used = parse_info(self._link.ask("INFO", "memory"))["used_memory"]
        return Totals(
            users=counts[0],
            events=counts[1],
            records={digest.decode(): many for digest, many in records if many},
            bytes=int(used),
        )

    def compact(self) -> tuple[int, int]:
        """Write Redis's append-only file anew, without what was deleted; -> its bytes.

        Writers go on meanwhile. It is the file of the whole server.
        """
        self._clean()
        self._rewritten()  # one that has begun may not know of what was deleted since
        before = int(self._persistence()["aof_current_size"])
        self._link.ask("BGREWRITEAOF")
        info = self._rewritten()
        if info["aof_last_bgrewrite_status"] != "ok":
            raise StoreFull(
                f"{self._url}: Redis could not write its append-only file anew; nothing was "
                "lost. Its log says why; mostly its disk is full or its memory too small to fork"
            )
        return before, int(info["aof_current_size"])

    def close(self) -> None:
        self._link.close()

    def _greet(self, connection: Any) -> None:
        run = check_server(connection, self._durability, self._url)
        end_transaction(connection, self._prefix + b"run", run)

    def _append(self, digest: str, appends: Sequence[Append]) -> list[Appended]:
        """Appends that are one step."""
        fresh: dict[bytes, int] = {}
        while True:
            calls = chain.from_iterable(_arguments(one, fresh.get(one.user, 0)) for one in appends)
            said = self._link.change(APPEND, digest, *calls)
            if isinstance(said, bytes):
                break
            self._list(said)
            fresh.update(zip(said, self._borns(len(said)), strict=True))
        done = []
        for answer in said.split(b","):
            new, last, current = answer.split(b" ")
            flags = tuple([flag == ord("1") for flag in new])
            done.append(Appended(flags, int(last), current == b"1"))
        return done

    def _append_long(self, digest: str, whole: Append) -> Appended:
        """One that is several steps: the record goes with the last one, if nobody came between."""
        new: list[bool] = []
        at, born, alone = whole.last, whole.born, True
        for start in range(0, len(whole.events), PIECE):
            events = whole.events[start : start + PIECE]
            piece = whole._replace(born=born, last=at, events=events)
            if not alone or start + PIECE < len(whole.events):
                piece = piece._replace(record=None, seen=())
            [done] = self._append(digest, [piece])
            new += done.new
            at += len(events)
            alone = alone and all(done.new) and done.last == at
            if not born and alone:
                born = self.read(digest, [(whole.user, ())])[0].born
        return Appended(tuple(new), done.last, done.current)

    def _with_new(self, script: Script, calls: Iterable[Any]) -> bytes:
        """The answer of a script, the users listed that it says are not."""
        arguments = list(calls)
        while not isinstance(said := self._link.change(script, *arguments), bytes):
            self._list(said)
        return said

    def _note(self, digest: str) -> None:
        """Note a digest whose records will be in the store."""
        if digest not in self._digests:
            self._link.ask("SADD", self._prefix + b"digests", digest)
            self._digests.add(digest)

    def _list(self, users: Sequence[bytes]) -> None:
        """List new users, before they are there: one that is not listed would never be found."""
        pairs = [part for user in users for part in (0, user)]
        self._link.ask("ZADD", self._prefix + b"users", *pairs)

    def _borns(self, many: int) -> range:
        """Numbers of new logs."""
        end = self._link.ask("INCRBY", self._prefix + b"born", many) + 1
        return range(end - many, end)

    def _note_old(self, logs: Sequence[tuple[int, int, bytes]]) -> None:
        """Note logs that will be garbage, should this process die: born, last and user."""
        now = int(time.time())
        pairs = [
            part for born, last, user in logs for part in (born, b"%d %d " % (now, last) + user)
        ]
        self._link.ask("HSET", self._prefix + b"old", *pairs)

    def _erase(self, logs: Sequence[tuple[int, int, bytes]]) -> bool:
        """Delete logs, ids, records and bitmaps; -> False if one is a user's that went on."""
        for born, last, user in logs:
            for step in range(-(-last // ERASED)):
                if self._link.run(ERASE, user, born, last, step) == b"0":
                    return False
        return True

    def _pages(self, after: bytes, limit: int) -> Iterator[list[bytes]]:
        """All users after one, some at a time."""
        start = b"(" + after if after else b"-"
        while limit > 0:
            end, *users = self._link.run(USERS, start, min(limit, LISTED))
            if end is None:
                return
            if users:
                yield users
            start = b"(" + end

    def _clean(self) -> None:
        """Delete what was left half done, and answers that nobody asks for any more."""
        found, until = self._link.ask("HGETALL", self._prefix + b"old"), int(time.time()) - LEFT
        for born, noted in zip(found[::2], found[1::2], strict=True):
            since, last, user = noted.split(b" ", 2)
            if int(since) < until:
                log = (int(born), int(last), user)
                if self.read("", [(user, ())])[0].born != log[0]:
                    self._erase([log])
                self._link.ask("HDEL", self._prefix + b"old", born)
        cursor, pattern = b"0", _escaped(self._prefix) + b"done:*"
        while True:
            cursor, keys = self._link.ask("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
            for key in keys:
                said = self._link.ask("GET", key)
                if said is not None and int(said.split(b" ", 2)[1]) < until:
                    self._link.ask("UNLINK", key)
            if cursor == b"0":
                return

    def _persistence(self) -> dict[str, str]:
        return parse_info(self._link.ask("INFO", "persistence"))

    def _rewritten(self) -> dict[str, str]:
        """What INFO tells of the files, once none is being written."""
        pause = 0.005
        while True:
            info = self._persistence()
            if info["aof_rewrite_in_progress"] == info["aof_rewrite_scheduled"] == "0":
                return info
            time.sleep(pause)
            pause = min(0.5, 1.5 * pause)

    def _meta(self) -> bytes:
        return self._link.ask("GET", self._prefix + b"meta") or b""

    def _load(self, text: bytes) -> dict[str, Any]:
        try:
            meta = json.loads(text or b"{}")
        except ValueError:
            meta = None
        if not isinstance(meta, dict):
            raise DataError(
                f"{self._url}: what stands under {self._prefix.decode()!r} is no store of users; "
                "take another database or ?prefix=…"
            )
        return meta


def _arguments(append: Append, fresh: int) -> list[Any]:
    """What the script is given of one."""
    pairs = [
        part
        for event in append.events
        for part in (
            b"-" if event.event_id is None else b"+" + event.event_id,
            pack_event(event),
        )
    ]
    return [
        *(append.user, append.born, append.last, append.version.to_bytes(8, "little"), fresh),
        *(append.record or b"", len(append.events), len(append.seen), *pairs, *append.seen),
    ]


def _size(append: Append) -> tuple[int, int]:
    """Bytes that the script is given of one, about, and keys that it writes at most."""
    many = len(append.events)
    pages = len({index // (8 * PAGE) for index in append.seen})
    return len(append.record or b"") + 100 * many, many + many // BLOCK + pages + 5


def _parts(calls: Iterable[tuple[T, int, int]]) -> Iterator[list[T]]:
    """Calls put together as one script takes them; each with its bytes and count of keys."""
    part: list[T] = []
    size = keys = 0
    for call, more, many in calls:
        if part and (size + more > BYTES or keys + many > KEYS):
            yield part
            part, size, keys = [], 0, 0
        part.append(call)
        size, keys = size + more, keys + many
    if part:
        yield part


def _escaped(text: bytes) -> bytes:
    """Text that a pattern of Redis's matches as it is."""
    return b"".join(b"\\" + bytes([byte]) if byte in b"*?[]\\^" else bytes([byte]) for byte in text)
