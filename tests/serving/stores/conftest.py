"""What tests of stores share: processes that act on stores, and one Redis server for all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from forking import ForkServer
from redis import Redis
from serving.redis_server import GOOD, RedisServer


@pytest.fixture(scope="session")
def forks() -> Iterator[ForkServer]:
    with ForkServer("serving.stores.store_jobs") as server:
        yield server


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture
def server(shared_server, admin) -> RedisServer:
    """The shared server, empty and with the settings it needs; not to be killed."""
    return shared_server


@pytest.fixture
def admin(shared_server) -> Iterator[Redis]:
    """A client of the shared server, with all rights."""
    with shared_server.client() as client:
        client.flushall()
        for name, value in (GOOD | {"no-appendfsync-on-rewrite": "no", "maxmemory": "0"}).items():
            client.config_set(name, value)
        yield client
