"""Redis's append-only file cut anywhere, a service's steps in it, and what is there then.

One server lives and writes the file. Into another one goes what a server would load of the file's
beginning, up to the last whole command (Redis itself cuts a file there when it starts;
`test_redis_loads_so` holds that against real starts). That takes milliseconds, a start takes more.
"""

from __future__ import annotations

import os
import random
import socket
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from serving.redis_server import RedisServer
from simulation.checks import check_store
from simulation.service import OF_ANY_STORE, Expected, Service, Step, draw

from longrec.serving.stores import damage
from longrec.serving.stores.high_water import HighWater, Mark, path_of
from longrec.serving.stores.open import open_store

SETTINGS = {"aof_use_rdb_preamble": "no", "auto_aof_rewrite_percentage": "0"}
END = b"this is the end of what is loaded"


class Moment(NamedTuple):
    """How long the file was when a step began or had ended, and what was acknowledged by then."""

    size: int
    step: Step
    mark: Mark


def live(server: RedisServer, seed: int, steps: int) -> tuple[bytes, list[Moment]]:
    """Let a service do steps; -> the file, and its moments."""
    dice, expected = random.Random(f"redis {seed}"), Expected({}, 0)
    [file] = server.folder.rglob("*.incr.aof")
    moments = [Moment(0, Step("open", expected, expected), Mark(0, 0))]
    with Service(server.url, "power", False, 0) as service:

        def note(step: Step) -> None:
            mark = HighWater(path_of(service.stream.store.url)).read() or Mark(0, 0)
            moments.append(Moment(file.stat().st_size, step, mark))

        note(Step("wait", expected, expected))
        for number in range(steps):
            step = draw(dice, expected, number, OF_ANY_STORE)
            note(step)
            service.do(step)
            expected = step.after
            note(Step("wait", expected, expected))
    return file.read_bytes(), moments


def cut_often(
    content: bytes, moments: list[Moment], server: RedisServer, dice: random.Random, cuts: int
) -> int:
    """Cut the file at many places and look at each; -> how many of them had lost something."""
    ends, told = list(whole_commands(content)), 0
    sizes = [moment.size for moment in moments]
    for number in range(cuts):
        cut = dice.randint(moments[1].size, len(content))
        load(server, content[: max(end for end in [0, *ends] if end <= cut)])
        step = moments[bisect_right(sizes, cut) - 1].step
        acknowledged = moments[bisect_right(sizes, cut) - 1].mark
        last = moments[-1].mark if number % 4 == 0 else acknowledged
        mark = HighWater(path_of(server.url))
        mark.write(last)
        mark.close()
        with patch.object(damage.log, "disabled", True):
            store = open_store(server.url, "process")
        try:
            written = int(store._client.command("GET", b"longrec:writes"))
            lost = last.writes - written
            assert (store._runs.lost is not None) == (lost > 0)
            told += lost > 0
            store.damage.counts.clear()
            store._runs.lost = None
            check_store(store, step, False, number % 4 == 1)
        finally:
            store.close()
    return told


def whole_commands(content: bytes) -> Iterator[int]:
    """Where commands of an append-only file end, those of a transaction where that does."""
    place, within = 0, False
    while place < len(content):
        end = content.index(b"\r\n", place)
        words, count = list[bytes](), int(content[place + 1 : end])
        place = end + 2
        for _ in range(count):
            end = content.index(b"\r\n", place)
            size = int(content[place + 1 : end])
            words.append(content[end + 2 : end + 2 + size])
            place = end + 4 + size
        within = (within or words[0].upper() == b"MULTI") and words[0].upper() != b"EXEC"
        if not within:
            yield place


def load(server: RedisServer, commands: bytes) -> None:
    """Let an emptied server do commands."""
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"*1\r\n$7\r\nFLUSHDB\r\n" + commands)
        connection.sendall(b"*2\r\n$4\r\nECHO\r\n$%d\r\n%b\r\n" % (len(END), END))
        answer = b""
        while END not in answer:
            answer = answer[-len(END) :] + connection.recv(1 << 16)


def marks_in(folder: Path) -> object:
    """Keep high-water marks of servers in a folder."""
    return patch.dict(os.environ, XDG_STATE_HOME=str(folder))
