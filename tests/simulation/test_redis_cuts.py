"""Wherever Redis's file was cut, what was acknowledged before is there; what is lost is told."""

from __future__ import annotations

import random

import pytest
from serving.redis_server import RedisServer
from simulation.redis_cuts import SETTINGS, cut_often, live, load, marks_in, whole_commands


@pytest.mark.slow
def test_wherever_the_file_was_cut(tmp_path) -> None:
    with (
        marks_in(tmp_path / "marks"),
        RedisServer(tmp_path / "lives", **SETTINGS) as server,
        RedisServer(tmp_path / "loads", appendfsync="everysec") as other,
    ):
        content, moments = live(server, 1, 25)
        assert cut_often(content, moments, other, random.Random(1), 60) > 5


def values_of(server: RedisServer) -> dict[bytes, object]:
    """All that a server has: texts, sets and sorted sets."""
    readers = {b"string": "GET", b"set": "SMEMBERS", b"hash": "HGETALL"}
    with server.client() as client:
        return {
            key: client.execute_command(readers[kind], key)
            if (kind := client.type(key)) in readers
            else client.zrange(key, 0, -1)
            for key in client.scan_iter()
        }


@pytest.mark.slow
def test_redis_loads_so(tmp_path) -> None:
    dice = random.Random(2)
    with (
        marks_in(tmp_path / "marks"),
        RedisServer(tmp_path / "lives", **SETTINGS) as server,
        RedisServer(tmp_path / "loads", appendfsync="everysec") as other,
    ):
        content, _ = live(server, 2, 10)
        ends = list(whole_commands(content))
        [file] = server.folder.rglob("*.incr.aof")
        for _ in range(4):
            cut = dice.randrange(len(content))
            load(other, content[: max(end for end in [0, *ends] if end <= cut)])
            server.kill()
            file.write_bytes(content[:cut])
            server.start()
            assert values_of(server) == values_of(other)
