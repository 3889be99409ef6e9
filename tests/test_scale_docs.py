"""The configuration of docs/scale.md: servers that reach each other from machine to machine."""

from __future__ import annotations

import re
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from serving.redis_server import free_port, need_redis
from serving.stores.store_properties import event, events_of, log

from longrec.core.errors import LongrecError
from longrec.serving.stores.open import open_store

PAGE = (Path(__file__).parents[1] / "docs" / "scale.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## A store with fail-over")[2].partition("\n## ")[0]


def own_address() -> str:
    """An address of this machine by which Redis takes it for another one."""
    for addresses in psutil.net_if_addrs().values():
        for one in addresses:
            if one.family == socket.AF_INET and not one.address.startswith("127."):
                return one.address
    pytest.skip("this machine has no address but loopback")


@pytest.mark.slow
def test_servers_of_several_machines_reach_each_other_as_printed(tmp_path: Path) -> None:
    need_redis()
    here, ports = own_address(), {"6379": free_port(), "26379": free_port()}
    conf, sentinel, commands = re.findall(r"^```\n(.*?)^```$", SECTION, re.S | re.M)
    [url] = re.findall(r"redis\+sentinel://\S+", commands)
    url = re.sub(r"@.*/shop", "@10.0.0.1:26379/shop", url)
    for old, new in ports.items():
        conf, sentinel, url = (
            re.sub(rf"\b{old}\b", str(new), text).replace("10.0.0.1", here)
            for text in (conf, sentinel, url)
        )
    master = "".join(row for row in conf.splitlines(True) if not row.startswith("replicaof"))
    replica = conf.replace(f"port {ports['6379']}\n", f"port {free_port()}\n", 1)
    servers = (master, []), (replica, []), (sentinel, ["--sentinel"])
    with ExitStack() as stack:
        for number, (text, more) in enumerate(servers):
            folder = tmp_path / str(number)
            folder.mkdir()
            (folder / "redis.conf").write_text(text)
            command = ["redis-server", "redis.conf", *more]
            process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.kill)
        end = time.monotonic() + 60
        while True:
            try:  # a write is acknowledged once the replica has it
                store = open_store(url)
                log(store, b"ann", event(1))
                break
            except LongrecError:
                if time.monotonic() > end:
                    raise
        assert len(events_of(store, b"ann")) == 1
        store.close()
