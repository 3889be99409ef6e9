"""Bits flipped in a store's files, one at a time, and what becomes of each.

found      the store does not open, or `verify` finds something
no matter  it finds nothing, and all that can be read is what it was
silent     it finds nothing, and something is not what it was: there shall be none of these
"""

from __future__ import annotations

import logging
import os
import pickle
import random
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from redis import Redis
from serving.maintenance.small_stores import MODEL, content_of, fill, record, serve
from serving.redis_server import RedisServer

from longrec.core.errors import LongrecError
from longrec.serving.maintenance.verify import verify
from longrec.serving.stores.lmdb_pages import Pages
from longrec.serving.stores.open import open_store
from longrec.serving.stores.protocol import Append, Event, Store

STATE = bytes(range(256)) * 40
"""As long as the state of a small model: a record has pages of its own."""


def make(store: Store, seed: int = 0) -> None:
    """Fill a store with users who come, go on and are forgotten."""
    dice = random.Random(seed)
    serve(store)
    for turn in range(60):
        user = b"user%d" % dice.randrange(14)
        [stored] = store.read(MODEL, [(user, ())])
        events = [
            Event(turn, b"item%d" % dice.randrange(99), b"%d-%d" % (turn, n) if n % 3 else None)
            for n in range(dice.randrange(1, 30))
        ]
        after = record(user, stored.last + len(events), stored.version + 1, extra=STATE)
        seen = dice.sample(range(30_000), 3)
        append = Append(user, stored.log_id, stored.last, stored.version, events, after, seen)
        store.append(MODEL, [append])
        if turn % 9 == 8:
            store.forget(b"user%d" % dice.randrange(14))
    fill(store, {b"\xff": [Event(1, b"i", b"e", b'{"n":1}')]})


def what_becomes(url: str, whole: Any) -> str:
    """What becomes of a store in which something was changed."""
    try:
        store = open_store(url, "process", readonly=True)
    except LongrecError:
        return "found"
    try:
        if verify(store).problems:
            return "found"
        return "no matter" if content_of(store) == whole else "silent"
    except LongrecError:
        return "found"
    finally:
        store.close()


def in_fork(work: Callable[[], Any]) -> Any:
    """What it gives in a forked child; the signal by which that ended, if it was one."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(reader)
            with os.fdopen(writer, "wb") as pipe:
                pickle.dump(work(), pipe)
            os._exit(0)
        except BaseException as error:
            os.write(2, repr(error).encode())
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return pickle.loads(answer) if status == 0 else f"ended by {status}"


def pages_in_use(file: Path) -> list[int]:
    """The pages of an LMDB file that hold something, or say which do."""
    with file.open("rb") as opened:
        pages = Pages(opened.fileno(), 4096)
        content = file.read_bytes()
        last = max(
            int.from_bytes(content[p + 16 + 128 : p + 16 + 136], "little") for p in (0, 4096)
        )
        meta = pages.meta(last)
        pages.used = []
        for _, root in pages.tables(meta.main):
            for _ in pages.pairs(root):
                pass
        free = Pages(opened.fileno(), 4096, integers=True)
        free.used = []
        assert list(free.pairs(meta.free))
        assert not pages.broken + free.broken
        return sorted({0, 1, *pages.used, *free.used})


def held_bytes(content: bytes, used: list[int]) -> bytearray:
    """Per byte of an LMDB file 1 where something is held: not the room that pages leave, nor a page
    of the two at the beginning that no longer counts."""
    held, after = bytearray(len(content)), 0
    for page in used[2:]:
        start = page * 4096
        if start < after:  # a value goes on
            continue
        kind, lower = struct.unpack_from("<HH", content, start + 10)
        held[start : start + 8], held[start + 10 : start + 16] = b"\1" * 8, b"\1" * 6
        if kind == 4:
            [pages] = struct.unpack_from("<I", content, start + 12)
            after = start + pages * 4096
            continue
        places = struct.unpack_from(f"<{lower // 2 - 8}H", content, start + 16)
        held[start + 16 : start + lower] = b"\1" * (lower - 16)
        for place in places:
            at = start + place
            low, high, flags, key = struct.unpack_from("<HHHH", content, at)
            size = low | high << 16
            if kind == 2 and flags & 1:
                [value] = struct.unpack_from("<Q", content, at + 8 + key)
                held[value * 4096 + 16 : value * 4096 + 16 + size] = b"\1" * size
            end = at + 8 + key + (0 if kind == 1 else 8 if flags & 1 else size)
            if kind == 1 and place == places[0]:  # which has no key that is read
                end = at + 8
            held[at:end] = b"\1" * (end - at)
    return held


def flip_lmdb(folder: Path, trials: int, seed: int) -> Counter[str]:
    """Flip bits of the pages in use of a store in `folder`, until so many were of what is held."""
    store = open_store(str(folder), "process")
    make(store)
    store._folder._file.env.sync(True)
    whole = content_of(store)
    store.close()
    [file] = folder.glob("*.mdb")
    content, dice, found = file.read_bytes(), random.Random(seed), Counter[str]()
    used = pages_in_use(file)
    held = held_bytes(content, used)
    (folder / "store-1.mdb-lock").unlink()
    while trials:
        at = dice.choice(used) * 4096 + dice.randrange(4096)
        trials -= held[at]
        with file.open("r+b") as opened:
            opened.seek(at)
            opened.write(bytes([content[at] ^ 1 << dice.randrange(8)]))
        becomes = in_fork(lambda: what_becomes(str(folder), whole))
        found[f"{becomes}, {'of what is held' if held[at] else 'of free room'}"] += 1
        if becomes not in ("found", "no matter") or (held[at] and becomes != "found"):
            print(becomes, "page", at // 4096, "byte", at % 4096)  # shown where a test fails
        with file.open("r+b") as opened:
            opened.seek(at)
            opened.write(content[at : at + 1])
    return found


def values(client: Redis) -> Iterator[bytes]:
    """The keys whose values a store reads: all but what it keeps of calls."""
    for key in sorted(client.scan_iter(b"*")):
        if client.type(key) == b"string" and b":done:" not in key and not key.endswith(b":run"):
            yield key


def flip_redis(url: str, client: Redis, trials: int, seed: int) -> Counter[str]:
    """Flip bits of the values of a store in Redis; one after the other."""
    store = open_store(url, "process")
    make(store)
    whole, dice, found = content_of(store), random.Random(seed), Counter[str]()
    store.close()
    keys = [key for key in values(client) if client.strlen(key)]
    sizes = [client.strlen(key) for key in keys]
    for trial in range(trials):
        # Half of them in keys alike, so that the small ones are met, too.
        [key] = dice.choices(keys, sizes if trial % 2 else None)
        value = client.get(key)
        at = dice.randrange(len(value))
        client.set(key, value[:at] + bytes([value[at] ^ 1 << dice.randrange(8)]) + value[at + 1 :])
        becomes = what_becomes(url, whole)
        if becomes == "no matter" and key.endswith((b":writes", b":born")):
            becomes += ", of a count"
        found[becomes] += 1
        if becomes != "found":
            print(becomes, key, at)
        client.set(key, value)
    return found


def main() -> None:
    """Trials on a store of each kind, with counts of what became of them."""
    trials = int(sys.argv[1])
    logging.disable()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_STATE_HOME"] = folder
        print("LMDB:", dict(flip_lmdb(Path(folder) / "store", trials, 1)))
        with RedisServer(Path(folder), appendfsync="everysec") as server, server.client() as client:
            print("Redis:", dict(flip_redis(server.url, client, trials, 1)))


if __name__ == "__main__":
    main()
