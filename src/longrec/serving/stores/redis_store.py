"""The store that replicas share: a Redis server, where one script holds an event and its record.

Any number of processes may write to it, and of one user too: Redis does one script after the other,
and that is the order of the log. What is appended in one call is one script, if it is of at most
8 MiB and some thousands of keys: it is in the store as a whole or not at all, and is one sync.

power : Redis must sync its append-only file before it answers (`appendfsync always`).
process : `appendfsync everysec` does. Events survive the end of the process that sent them. If
    Redis itself is killed while its disk syncs, what it acknowledged meanwhile may be lost, up to
    two seconds of it; in a power cut more.

Behind Sentinels a call is acknowledged when all replicas that they see have it, too, since any may
be the next master (docs/decisions/0065-fail-over.md). Redis Cluster is not supported. Give it a
server of its own: one that other programs write transactions to (MULTI, or scripts that write
several keys) may lose events if it is killed while it writes one, and again soon after the next
start. Redis's snapshots (dump.rdb) are backups, and hold users that were forgotten until the next
one.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice
from typing import Any, TypeVar
from zlib import crc32

from longrec.core.choices import Durability
from longrec.core.errors import DataError
from longrec.serving.stores.checks import (
    is_sealed,
    owner_check,
    pack_meta,
    pack_pages,
    unpack_list,
    unpack_meta,
    unpack_pages,
)
from longrec.serving.stores.damage import Damage, log
from longrec.serving.stores.high_water import UNREADABLE
from longrec.serving.stores.protocol import (
    DAMAGED,
    LOG_ID,
    SCHEMA,
    Append,
    Appended,
    Event,
    Put,
    Rewrite,
    StoredUser,
    StoreFull,
    Totals,
    UserDamaged,
    check_schema,
    version_of,
)
from longrec.serving.stores.redis_address import RedisAddress
from longrec.serving.stores.redis_cleanup import LogRef, RedisCleanup
from longrec.serving.stores.redis_client import RedisClient
from longrec.serving.stores.redis_errors import no_store, out_of_memory
from longrec.serving.stores.redis_layout import (
    BLOCK_EVENTS,
    ERASED_EVENTS,
    append_arguments,
    append_size,
    in_parts,
    log_pairs,
    pack_head,
    pack_version,
    unpack_block,
    unpack_head,
)
from longrec.serving.stores.redis_runs import Run, Runs
from longrec.serving.stores.redis_settings import parse_info

T = TypeVar("T")
ROOM = 1 << 20
"""Bytes that there must be room for."""
CALL_EVENTS = 1024
"""Events of one user that one script logs; whole blocks."""
READ_USERS, LISTED_USERS, DROPPED_USERS = 256, 1000, 20
"""Users that one script reads; lists; deletes the records of."""


class RedisStore:
    """A `Store` at `redis://user:password@host:6379/0?prefix=longrec:`, or `rediss://…`, or where
    Sentinels say: see redis_address.py.

    All its keys begin with the prefix; errors are those of `open_store`.
    """

    folder, parts = None, 1

    def __init__(self, url: str, durability: Durability, readonly: bool) -> None:
        self._address = address = RedisAddress.parse(url)
        self.url, self.durability, self._prefix = address.public_url, durability, address.prefix
        self._runs, self._readonly = Runs(address, durability, readonly), readonly
        self._client = RedisClient(address, self._runs.check)
        self._cleanup = RedisCleanup(self._client, self.url, self._prefix)
        self._digests: set[tuple[Run, str]] = set()
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        """Find the store, or make it; and see whether it has all that was acknowledged."""
        mark, meta = self._runs.read_mark(), self.meta()
        check_schema(meta, self.url)
        if "schema" not in meta:
            size = f" with {mark.writes:,} writes" if mark and mark is not UNREADABLE else ""
            was = "" if mark is None else f" (one{size} was there)"
            if self._readonly:
                raise DataError(f"{self.url}: there is no store of users under this prefix{was}")
            if was:
                log.warning("%s: a new store is begun%s", self.url, was)
            new = {"schema": SCHEMA, "id": secrets.token_hex(8)}
            self.change_meta(lambda there: there.update(new | there))  # others may have begun it
            meta = self.meta()
        # What replicas do not have was not acknowledged to anybody.
        settled = not self._readonly
        writes = self._client.command("GET", self._prefix + b"writes", settled=settled)
        self._runs.begin(int(meta["id"], 16), writes, mark)

    @property
    def damage(self) -> Damage:
        """What was found damaged."""
        return self._runs.damage

    @damage.setter
    def damage(self, damage: Damage) -> None:
        self._runs.damage = damage

    def _run_once(self, script: str, *arguments: Any) -> Any:
        """The answer of a numbered script, after which the mark is set."""
        if (note := self._runs.take_unnoted()) is not None:
            self.change_meta(note)
        answer = self._client.run_once(script, *arguments)
        self._runs.acknowledged(self._client.writes)
        return answer

    def read(
        self, digest: str, asked: Sequence[tuple[bytes, Sequence[bytes]]], seen: bool = False
    ) -> list[StoredUser]:
        model, found = bytes.fromhex(digest), list[StoredUser]()
        for start in range(0, len(asked), READ_USERS):
            part = asked[start : start + READ_USERS]
            users = [value for user, ids in part for value in (user, len(ids), *ids)]
            answers, run = self._client.read("read", digest, int(seen), *users)
            for answer, (user, ids) in zip(answers, part, strict=True):
                if answer is None:
                    found.append(StoredUser(0, 0, None, b"", (None,) * len(ids)))
                else:
                    one = self._stored_user(model, user, answer)
                    found.append(one._replace(log_id=run.given(one.log_id)))
        return found

    def _stored_user(self, model: bytes, user: bytes, answer: list[Any]) -> StoredUser:
        """A user of whom read.lua gave this, with the id of the log as the server has it."""
        log_id, length = self._find_log(user, answer[0])
        _, record, packed_list, pages, known = answer
        version = version_of(record)
        stored = StoredUser(log_id, length, record, b"", tuple(known), version)
        if record is not None and not is_sealed(user, record):
            stored = stored._replace(record=None, damaged="record")
        else:
            numbers = unpack_list(owner := owner_check(model, user), packed_list)
            by_number = dict(zip(numbers or (), pages, strict=False))
            bitmap = unpack_pages(owner, packed_list, by_number.get)
            if bitmap is None:
                stored = stored._replace(record=None, damaged="bitmap")
            else:
                stored = stored._replace(seen=bitmap)
        if stored.damaged:
            self.damage.note(stored.damaged, where=f"log {log_id}")
        return stored

    def _find_log(self, user: bytes, head: bytes) -> tuple[int, int]:
        """Id and length of a user's log."""
        found = unpack_head(user, head)
        if found is None:
            self.damage.note("user")
            raise UserDamaged(
                f"{self.url}: what is kept of this user is damaged, and the log cannot be found. "
                "`longrec store verify` names all such users; the mend is to restore a backup, or "
                "to forget the user"
            )
        return found

    def events(self, user: bytes, log_id: int, after: int, limit: int) -> list[Event]:
        stored_id = log_id & LOG_ID
        (head, *blocks), run = self._client.read(
            "events", user, stored_id, after, after + limit - 1
        )
        if head is None:
            return []
        found, length = self._find_log(user, head)
        if run.given(found) != log_id:
            return []
        first = after - after % BLOCK_EVENTS
        events: list[Event] = []
        for block in blocks:
            start = first + len(events)
            count = min(BLOCK_EVENTS, length - start)
            events += unpack_block(user, block, start + 1, count)
        events = events[after - first : max(after + limit - first, 0)]
        for number, event in enumerate(events, after + 1):
            if event is DAMAGED:
                self.damage.note("event", where=f"event {number} of log {stored_id}")
        return events

    def append(self, digest: str, appends: Sequence[Append]) -> list[Appended]:
        """More than 1,024 events of one user are logged in several steps."""
        self._add_digest(digest)
        done: dict[bytes, Appended] = {}
        short = [append for append in appends if len(append.events) <= CALL_EVENTS]
        for part in in_parts((append, *append_size(append)) for append in short):
            for append, appended in zip(part, self._append(digest, part), strict=True):
                done[append.user] = appended
        for append in appends:
            if len(append.events) > CALL_EVENTS:
                done[append.user] = self._append_long(digest, append)
        self._add_digest(digest)  # again, if another server has become the master
        return [done[append.user] for append in appends]

    def put(self, digest: str, puts: Sequence[Put]) -> int:
        self._add_digest(digest)
        calls, run = [], self._runs.now
        for put in puts:
            packed_list, pages = pack_pages(owner_check(bytes.fromhex(digest), put.user), put.seen)
            call = [put.user, crc32(put.user), run.stored(put.log_id), pack_version(put.version)]
            call += [put.record, packed_list, *pages.values()]
            calls.append((call, len(put.record) + len(put.seen), 2 + len(pages)))
        parts = in_parts(calls)
        return sum(int(self._run_once("put", digest, run.name, *chain(*part))) for part in parts)

    def rewrite(self, rewrites: Sequence[Rewrite]) -> list[bool]:
        """Each log is built beside the old one, however long, and takes its place in one step.

        What a killed process leaves of either is deleted by `compact`, after an hour.
        """
        if not all(rewrite.events for rewrite in rewrites):
            return [self.rewrite([r])[0] if r.events else self._forget_if_same(r) for r in rewrites]
        if not rewrites:
            return []
        run = self._runs.now
        new_logs = [
            LogRef(log_id, len(rewrite.events), rewrite.user)
            for log_id, rewrite in zip(self._new_ids(len(rewrites)), rewrites, strict=True)
        ]
        old_logs = [LogRef(run.stored(one.log_id), one.last, one.user) for one in rewrites]
        unfinished = new_logs + [log for log in old_logs if log.log_id > 0]
        self._cleanup.note_unfinished(unfinished)
        pairs = chain.from_iterable(
            log_pairs(rewrite.user, rewrite.events, log.log_id)
            for rewrite, log in zip(rewrites, new_logs, strict=True)
        )
        for part in in_parts(((self._prefix + key, value), len(value), 1) for key, value in pairs):
            self._client.command("MSET", *chain(*part))
        calls = [
            (
                (
                    *(new.user, crc32(new.user), old.log_id, old.length),
                    *(new.log_id, new.length, pack_head(new.user, new.log_id, new.length)),
                ),
                *(0, 1),
            )
            for old, new in zip(old_logs, new_logs, strict=True)
        ]
        parts = in_parts(calls)
        done = [flag for part in parts for flag in self._replace(run.name, *chain(*part))]
        for old, new, replaced in zip(old_logs, new_logs, done, strict=True):
            garbage = old if replaced else new
            if garbage.log_id > 0:
                self._cleanup.erase(garbage)
        self._cleanup.forget_unfinished(unfinished)
        return done

    def forget(self, user: bytes) -> bool:
        found = False
        while True:
            try:
                [stored] = self.read("", [(user, ())])
            except UserDamaged:
                found = True
                self._cleanup.abandon(user)
                continue
            if not stored.log_id:
                self._client.run("unlist", user)
                return found
            damaged = self._is_damaged(user, stored)
            found, log = True, LogRef(stored.log_id & LOG_ID, stored.last, user)
            if log.length <= ERASED_EVENTS:
                self._cleanup.erase(log)
            else:
                with suppress(StoreFull):  # forgetting is what makes room
                    self._cleanup.note_unfinished([log])
                if self._cleanup.erase(log):
                    self._cleanup.forget_unfinished([log])
            if damaged:
                self._cleanup.erase_ids(log.log_id)

    def _is_damaged(self, user: bytes, stored: StoredUser) -> bool:
        """Whether some event of a user's log is."""
        steps = range(0, stored.last, ERASED_EVENTS)
        parts = (self.events(user, stored.log_id, after, ERASED_EVENTS) for after in steps)
        return any(DAMAGED in part for part in parts)

    def _forget_if_same(self, rewrite: Rewrite) -> bool:
        """Forget a user whose log is still the one that a rewrite is to replace."""
        run = self._runs.now
        log = LogRef(run.stored(rewrite.log_id), rewrite.last, rewrite.user)
        [stored] = self._client.run("read", "", 0, rewrite.user, 0)
        head = None if stored is None else unpack_head(rewrite.user, stored[0])
        if log.log_id != (0 if head is None else head[0]):
            return False
        done = self._cleanup.erase(log, run.name)
        self._client.run("unlist", rewrite.user)
        return done

    def part_of(self, user: bytes) -> int:
        return 0

    def users(self, after: bytes, limit: int) -> list[bytes]:
        return list(islice(chain.from_iterable(self._user_pages(after, limit)), limit))

    def meta(self) -> dict[str, Any]:
        return self._read_meta()[1]

    def change_meta(self, change: Callable[[dict[str, Any]], T]) -> T:
        while True:
            before, meta = self._read_meta()
            result = change(meta)
            if self._run_once("change_meta", before, pack_meta(meta)) == b"1":
                return result

    def drop(self, digest: str) -> int:
        dropped = 0
        for users in self._user_pages(b"", DROPPED_USERS):
            # Counted before: a call that is sent again finds none.
            dropped += self._client.run("count", 1, digest, *users)[2]
            self._client.run("drop", digest, *users)
        return dropped

    def totals(self) -> Totals:
        """Figures of this store, counted now; the bytes are the memory of the whole server."""
        digests = sorted(self._client.command("SMEMBERS", self._prefix + b"digests"))
        counts = [0] * (2 + len(digests))
        for users in self._user_pages(b"", LISTED_USERS):
            found = self._client.run("count", len(digests), *digests, *users)
            counts = [a + b for a, b in zip(counts, found, strict=True)]
        records = {
            digest.decode(): count
            for digest, count in zip(digests, counts[2:], strict=True)
            if count
        }
        memory = parse_info(self._client.command("INFO", "memory"))["used_memory"]
        return Totals(counts[0], counts[1], records, int(memory))

    def check_ready(self) -> None:
        # Changes nothing, and is refused as every other write is.
        self._client.command("SETNX", self._prefix + b"meta", b"{}", settled=True)
        memory = parse_info(self._client.command("INFO", "memory"))
        # What Redis holds a write's size against; a small one may be taken where others are not.
        used = int(memory["used_memory"]) - int(memory.get("mem_not_counted_for_evict", 0))
        if 0 < int(memory.get("maxmemory", 0)) < used + ROOM:
            raise out_of_memory(self.url)

    def compact(self) -> tuple[int, int]:
        """Write Redis's append-only file anew, without what was deleted; -> its bytes.

        Writers go on meanwhile. It is the file of the whole server.
        """
        self._cleanup.erase_unfinished()
        self._cleanup.erase_abandoned()
        self._cleanup.delete_old_answers()
        return self._cleanup.rewrite_file()

    def inspect(self) -> list[str]:
        """What no checksum tells: users who are not listed, ids that logs will get twice."""
        found = [] if self._runs.lost is None else [str(self._runs.lost)]
        listed = set(chain.from_iterable(self._user_pages(b"", LISTED_USERS)))
        beginning, last, unlisted = self._prefix + b"user:", 0, 0
        for keys in self._client.keys(beginning):
            for key, head in zip(keys, self._client.command("MGET", *keys), strict=True):
                user = key[len(beginning) :]
                last = max(last, *(unpack_head(user, head or b"") or (0, 0))[:1])
                if user not in listed:  # unless the user has come, or gone, since
                    scored = self._client.command("ZSCORE", self._prefix + b"users", user)
                    unlisted += scored is None and head is not None
        if unlisted:
            found.append(f"{unlisted:,} users are there and not in the list of users")
        born = self._client.command("GET", self._prefix + b"born") or b"0"
        if not born.isdigit() or int(born) < last:
            found.append("ids of logs will be given that others have: the key born is damaged")
        return found

    def close(self) -> None:
        self._client.close()
        self._runs.close()

    def _append(self, digest: str, appends: Sequence[Append]) -> list[Appended]:
        """Appends that are one step."""
        new_ids, run = dict[bytes, int](), self._runs.now
        while True:
            arguments = chain.from_iterable(
                append_arguments(digest, one, run.stored(one.log_id), new_ids.get(one.user, 0))
                for one in appends
            )
            answer = self._run_once("append", digest, run.name, *arguments)
            if isinstance(answer, bytes):
                break
            self._list_users(answer)
            new_ids.update(zip(answer, self._new_ids(len(answer)), strict=True))
        done = []
        for part in answer.split(b","):
            flags, length, current = part.split(b" ")
            new = tuple([flag == ord("1") for flag in flags])
            done.append(Appended(new, int(length), current == b"1"))
        return done

    def _append_long(self, digest: str, append: Append) -> Appended:
        """One that is several steps: the record goes with the last one, if nobody came between."""
        new: list[bool] = []
        log_id, length, alone = append.log_id, append.last, True
        for start in range(0, len(append.events), CALL_EVENTS):
            events = append.events[start : start + CALL_EVENTS]
            step = append._replace(log_id=log_id, last=length, events=events)
            if not alone or start + CALL_EVENTS < len(append.events):
                step = step._replace(record=None, seen=())
            [done] = self._append(digest, [step])
            new += done.new
            length += len(events)
            alone = alone and all(done.new) and done.last == length
            if not log_id and alone:
                log_id = self.read(digest, [(append.user, ())])[0].log_id
        return Appended(tuple(new), done.last, done.current)

    def _replace(self, *arguments: Any) -> list[bool]:
        while not isinstance(answer := self._run_once("replace", *arguments), bytes):
            self._list_users(answer)
        return [flag == ord("1") for flag in answer]

    def _add_digest(self, digest: str) -> None:
        """Note the digest of a model whose records will be in the store, in each run anew."""
        while (noted := (self._runs.now, digest)) not in self._digests:
            self._client.command("SADD", self._prefix + b"digests", digest)
            self._digests.add(noted)

    def _list_users(self, users: Sequence[bytes]) -> None:
        """List new users, before they are there: one that is not listed would never be found."""
        scored = [value for user in users for value in (0, user)]
        self._client.command("ZADD", self._prefix + b"users", *scored)

    def number_logs_after(self, number: int) -> None:
        """Let the ids of logs begin behind a number, unless one was given already."""
        self._client.command("SETNX", self._prefix + b"born", number, settled=True)

    def _new_ids(self, count: int) -> range:
        """Ids of new logs."""
        end = self._client.command("INCRBY", self._prefix + b"born", count) + 1
        return range(end - count, end)

    def _user_pages(self, after: bytes, limit: int) -> Iterator[list[bytes]]:
        """All users after one, at most `limit` or 1,000 at a time."""
        start = b"(" + after if after else b"-"
        while limit > 0:
            end, *users = self._client.run("users", start, min(limit, LISTED_USERS))
            if end is None:
                return
            if users:
                yield users
            start = b"(" + end

    def _read_meta(self) -> tuple[bytes, dict[str, Any]]:
        """The store's meta, as it is stored and parsed."""
        text = self._client.command("GET", self._prefix + b"meta") or b""
        meta = unpack_meta(text) if text else {}
        if meta is None:
            raise no_store(self._address)
        return text, meta
