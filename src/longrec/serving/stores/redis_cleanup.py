"""What is deleted from a Redis store: logs, what killed processes left, and Redis's own file."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

from longrec.serving.stores.protocol import StoreFull
from longrec.serving.stores.redis_client import RedisClient
from longrec.serving.stores.redis_layout import ERASED_EVENTS, unpack_head
from longrec.serving.stores.redis_settings import parse_info

UNFINISHED = 3600
"""Seconds after which what was left half done is deleted, when the store is compacted."""


class LogRef(NamedTuple):
    """A log as it was when somebody looked: its id, how many events it had, and whose it was."""

    log_id: int
    length: int
    user: bytes


class RedisCleanup:
    """Deletes from the store that a client calls."""

    def __init__(self, client: RedisClient, url: str, prefix: bytes) -> None:
        self._client, self._url, self._prefix = client, url, prefix

    def note_unfinished(self, logs: Sequence[LogRef]) -> None:
        """Note logs that will be garbage, should this process die."""
        now = int(time.time())
        notes = [(log.log_id, b"%d %d %b" % (now, log.length, log.user)) for log in logs]
        self._client.command("HSET", self._prefix + b"old", *chain(*notes))

    def forget_unfinished(self, logs: Sequence[LogRef]) -> None:
        self._client.command("HDEL", self._prefix + b"old", *[log.log_id for log in logs])

    def erase(self, log: LogRef, run: str = "") -> bool:
        """Delete a log, its records and bitmaps; -> False if it is a user's and has grown.

        run : in which it was read and must be still; "": any.
        """
        found = (log.user, log.log_id, log.length)
        steps = range(-(-log.length // ERASED_EVENTS))
        return all(
            self._client.run("erase", *found, step, run, settled=True) == b"1" for step in steps
        )

    def erase_unfinished(self) -> None:
        """Delete what killed processes left of logs, unless it has become a user's."""
        notes = self._client.command("HGETALL", self._prefix + b"old")
        for log_id, note in zip(notes[::2], notes[1::2], strict=True):
            since, length, user = note.split(b" ", 2)
            if int(since) < int(time.time()) - UNFINISHED:
                log = LogRef(int(log_id), int(length), user)
                [stored] = self._client.run("read", "", 0, user, 0)
                head = None if stored is None else unpack_head(user, stored[0])
                if stored is None or (head is not None and head[0] != log.log_id):
                    self.erase(log)
                self.forget_unfinished([log])

    def erase_ids(self, log_id: int) -> None:
        """Delete the event ids of a log, some of which its damaged events do not tell any more."""
        for keys in self._client.keys(self._prefix + b"id:%d:" % log_id):
            self._client.command("UNLINK", *keys)

    def abandon(self, user: bytes) -> None:
        """Forget a user whose log cannot be found; it goes when `erase_abandoned` is called."""
        self._client.command("SET", self._prefix + b"abandoned", b"1")
        self._client.command("UNLINK", self._prefix + b"user:" + user, settled=True)

    def erase_abandoned(self) -> None:
        """Delete all that is of no user's log, where such logs are known to be."""
        if not self._client.command("GET", self._prefix + b"abandoned"):
            return
        born = int(self._client.command("GET", self._prefix + b"born") or 0)
        kept = {int(log_id) for log_id in self._client.command("HKEYS", self._prefix + b"old")}
        for keys in self._client.keys(self._prefix + b"user:"):
            heads = self._client.command("MGET", *keys)
            of_user = len(self._prefix + b"user:")
            found = [
                unpack_head(key[of_user:], head or b"")
                for key, head in zip(keys, heads, strict=True)
            ]
            if None in found:  # whose log that is, nobody knows
                return
            kept.update(head[0] for head in found if head is not None)
        for name, part in (
            (b"log:", 0),
            (b"id:", 0),
            (b"record:", 1),
            (b"pages:", 1),
            (b"seen:", 1),
        ):
            beginning = self._prefix + name
            for keys in self._client.keys(beginning):
                ids = [int(key[len(beginning) :].split(b":")[part]) for key in keys]
                gone = [k for k, n in zip(keys, ids, strict=True) if n <= born and n not in kept]
                if gone:
                    self._client.command("UNLINK", *gone)
        self._client.command("UNLINK", self._prefix + b"abandoned")

    def delete_old_answers(self) -> None:
        """Delete answers to numbered calls that nobody asks for any more."""
        for keys in self._client.keys(self._prefix + b"done:"):
            for key in keys:
                answer = self._client.command("GET", key)
                if answer and int(answer.split(b" ", 2)[1]) < int(time.time()) - UNFINISHED:
                    self._client.command("UNLINK", key)

    def rewrite_file(self) -> tuple[int, int]:
        """Let Redis write its append-only file anew; -> its bytes before and after."""
        # A rewriting of the file that has begun may not know of what was deleted since.
        before = int(self._wait_for_file()["aof_current_size"])
        self._client.command("BGREWRITEAOF")
        info = self._wait_for_file()
        if info["aof_last_bgrewrite_status"] != "ok":
            raise StoreFull(
                f"{self._url}: Redis could not write its append-only file anew; nothing was "
                "lost. Its log says why; mostly its disk is full or its memory too small to fork"
            )
        return before, int(info["aof_current_size"])

    def _wait_for_file(self) -> dict[str, str]:
        """What INFO has of the append-only file, once it is not being written anew."""
        pause = 0.005
        while True:
            info = parse_info(self._client.command("INFO", "persistence"))
            if info["aof_rewrite_in_progress"] == info["aof_rewrite_scheduled"] == "0":
                return info
            time.sleep(pause)
            pause = min(0.5, 1.5 * pause)
