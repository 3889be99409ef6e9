"""Redis's append-only file, where it died while it wrote, and transactions of other programs."""

from __future__ import annotations

import os
import random

import pytest
from forking import kills
from serving.redis_server import RedisServer
from serving.stores.store_properties import (
    DIGEST,
    OTHER,
    bitmap,
    event,
    events_of,
    log,
    read_user,
    record,
    step,
)
from serving.stores.store_survival import state_of

from longrec.serving.stores.open import open_store
from longrec.serving.stores.protocol import Put, Rewrite


def every_call(store, number: int) -> None:
    """Each way to write, to users of its own and to one that is there."""
    users = [b"%d-%d" % (number, n) for n in range(3)]
    store.append(DIGEST, [step(read_user(store, user), user, [event(1)], [9]) for user in users])
    log(store, b"always", event(number), seen=[number])
    log_id = read_user(store, users[0]).log_id
    assert (
        store.put(OTHER, [Put(users[0], log_id, 0, record(1, 1, user=users[0]), bitmap([9, 9000]))])
        == 1
    )
    assert store.rewrite([Rewrite(users[0], log_id, 1, [event(n) for n in range(200)])]) == [True]
    assert store.forget(users[1])
    store.drop(OTHER)
    store.change_meta(lambda meta: meta.update(n=number))


def test_no_call_is_a_transaction(tmp_path):
    with RedisServer(tmp_path) as server:
        store = open_store(server.url)
        every_call(store, 1)
        [file] = tmp_path.rglob("*.incr.aof")
        assert file.read_bytes().count(b"MULTI") == 1  # the empty one at the beginning
        store.close()


@pytest.mark.kills
def test_wherever_the_file_ends_nothing_comes_back_and_nothing_goes(tmp_path):
    """The file is cut at any place; what is logged after that stays, over further starts."""
    dice, before = random.Random(5), 0
    with RedisServer(tmp_path) as server:
        for number in range(kills(7)):
            store = open_store(server.url)
            every_call(store, number)
            whole = state_of(store)
            server.kill()
            server.start()
            assert state_of(store) == whole
            [file] = tmp_path.rglob("*.incr.aof")
            server.kill()
            os.truncate(file, dice.randint(before, file.stat().st_size))
            server.start()
            log(store, b"always", event(100 + number))
            after = state_of(store)
            before = file.stat().st_size
            store.close()
            server.kill()
            server.start()
            store = open_store(server.url)
            assert state_of(store) == after
            times = [one.time for one in events_of(store, b"always")]
            assert len(set(times)) == len(times)
            store.close()


def test_a_transaction_of_others_that_is_half_written_takes_nothing_with_it(tmp_path):
    with RedisServer(tmp_path) as server:
        store = open_store(server.url)
        log(store, b"u", event(1))
        for number in range(2, 4):
            server.kill()
            [file] = tmp_path.rglob("*.incr.aof")
            with file.open("ab") as written:
                written.write(
                    b"*1\r\n$5\r\nMULTI\r\n*3\r\n$3\r\nSET\r\n$1\r\nx\r\n$1\r\n1\r\n*3\r\n$3\r"
                )
            server.start()
            log(store, b"u", event(number))
        server.kill()
        server.start()
        assert events_of(store, b"u") == [event(1), event(2), event(3)]
        store.close()
