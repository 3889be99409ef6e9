from __future__ import annotations

import re
import traceback

import pytest
import redis
from serving.redis_server import RedisServer, free_port
from serving.stores.store_properties import event, events_of, log

from longrec.core.errors import LongrecError, UsageError
from longrec.serving.stores import redis_client
from longrec.serving.stores.open import open_store
from longrec.serving.stores.protocol import StoreUnavailable
from longrec.serving.stores.redis_errors import in_words

PASSWORD = "s3cret/pass#w%rd?"
QUOTED = "s3cret%2Fpass%23w%25rd%3F"


@pytest.mark.parametrize(
    "said",
    [
        "Error 104 while writing to socket. Connection reset by peer.",
        "Error 32 while writing to socket. Broken pipe.",
        "DENIED Redis is running in protected mode because …",
    ],
)
def test_a_server_that_answers_its_own_machine_alone_is_told_with_the_mend(said):
    address = redis_client.RedisAddress.parse("redis://10.0.0.1:6379/0")
    told = str(in_words(redis.ConnectionError(said), address, changing=False))
    assert "set requirepass" in told
    assert "write rediss://" in told


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(redis_client, "PATIENCE", 0.2)


@pytest.mark.parametrize(
    ("durability", "setting", "value", "mend"),
    [
        ("power", "appendonly", "no", "yes"),
        ("process", "appendonly", "no", "yes"),
        ("power", "maxmemory-policy", "allkeys-lru", "noeviction"),
        ("process", "maxmemory-policy", "volatile-ttl", "noeviction"),
        ("power", "appendfsync", "everysec", "always"),
        ("power", "appendfsync", "no", "always"),
        ("process", "appendfsync", "no", "everysec"),
        ("power", "no-appendfsync-on-rewrite", "yes", "no"),
    ],
)
def test_a_server_that_would_lose_events_is_refused(
    server, admin, durability, setting, value, mend
):
    admin.config_set(setting, value)
    with pytest.raises(LongrecError) as raised:
        open_store(server.url, durability)
    told = str(raised.value)
    assert f"{setting} is {value!r}" in told
    assert f"CONFIG SET {setting} {mend}" in told
    assert f"redis.conf: {setting} {mend}" in told
    assert admin.dbsize() == 0
    admin.config_set(setting, mend)
    store = open_store(server.url, durability)
    assert store.durability == durability
    store.close()


def test_all_that_is_wrong_is_told_at_once(server, admin):
    admin.config_set("appendfsync", "no")
    admin.config_set("maxmemory-policy", "allkeys-lru")
    with pytest.raises(
        LongrecError, match=r"maxmemory-policy.*appendfsync.*CONFIG SET.*CONFIG SET"
    ):
        open_store(server.url)


def test_process_takes_a_sync_each_second(server, admin):
    admin.config_set("appendfsync", "everysec")
    admin.config_set("no-appendfsync-on-rewrite", "yes")
    store = open_store(server.url, "process")
    log(store, b"u", event(1))
    store.close()


def test_each_new_connection_is_checked(server, admin):
    store = open_store(server.url)
    log(store, b"u", event(1))
    admin.config_set("appendfsync", "everysec")
    admin.client_kill_filter(_type="normal", skipme=True)
    for _ in range(2):
        with pytest.raises(LongrecError, match="appendfsync is 'everysec'"):
            log(store, b"u", event(2))
    admin.config_set("appendfsync", "always")
    log(store, b"u", event(2))
    assert events_of(store, b"u") == [event(1), event(2)]
    store.close()


def test_where_config_is_forbidden_info_tells(server, admin, impatient):
    admin.acl_setuser("shop", enabled=True, passwords=["+pw"], keys=["*"], categories=["+@all"])
    url = server.url.replace("//", "//shop:pw@")
    admin.execute_command("ACL", "SETUSER", "shop", "-config")
    with pytest.raises(LongrecError, match=r"CONFIG is forbidden.*\+config\|get.*'process'"):
        open_store(url)
    store = open_store(url, "process")
    log(store, b"u", event(1))
    admin.config_set("maxmemory-policy", "allkeys-lru")
    with pytest.raises(LongrecError, match="maxmemory-policy is 'allkeys-lru'"):
        open_store(url, "process")
    admin.config_set("maxmemory-policy", "noeviction")
    admin.execute_command("ACL", "SETUSER", "shop", "-bgrewriteaof")
    with pytest.raises(LongrecError, match=r"lacks a permission.*bgrewriteaof"):
        store.compact()
    admin.execute_command("ACL", "SETUSER", "shop", "-info")
    with pytest.raises(LongrecError, match=r"may not use INFO"):
        open_store(url, "process")
    store.close()


def test_the_permissions_that_are_named_are_enough(server, admin):
    admin.execute_command(
        *("ACL", "SETUSER", "clerk", "on", ">pw", "~longrec:*", "+@all", "-@admin"),
        *("+info", "+config|get", "+bgrewriteaof"),
    )
    store = open_store(server.url.replace("//", "//clerk:pw@"))
    log(store, b"u", event(1))
    store.compact()
    assert store.forget(b"u")
    store.close()


def test_where_config_is_renamed_it_is_as_if_forbidden(tmp_path):
    with RedisServer(tmp_path, rename_command="CONFIG hidden") as server:
        with pytest.raises(LongrecError, match="CONFIG is forbidden"):
            open_store(server.url)
        open_store(server.url, "process").close()


def test_replicas_and_clusters_are_refused(server, admin, tmp_path):
    with (
        RedisServer(tmp_path / "a", replicaof=f"127.0.0.1 {server.port}") as replica,
        pytest.raises(LongrecError, match=rf"read-only replica.*127.0.0.1:{server.port}"),
    ):
        open_store(replica.url)
    with (
        RedisServer(
            tmp_path / "b", cluster_enabled="yes", cluster_port=str(free_port())
        ) as cluster,
        pytest.raises(UsageError, match="mode cluster"),
    ):
        open_store(cluster.url)


def test_a_server_that_becomes_a_replica_is_told(server, tmp_path):
    with RedisServer(tmp_path) as other:
        store = open_store(other.url)
        with other.client() as client:
            client.replicaof("127.0.0.1", server.port)
        with pytest.raises(LongrecError, match="replica"):
            log(store, b"u", event(1))
        store.close()


def test_a_server_that_just_got_its_first_file_is_waited_for(tmp_path):
    with RedisServer(tmp_path, appendonly="no", enable_debug_command="yes") as server:
        with server.client() as client:
            client.execute_command("DEBUG", "POPULATE", 5_000, "k", 100)
            client.config_set("rdb-key-save-delay", 2)
            client.config_set("appendonly", "yes")
            assert client.info("persistence")["aof_rewrite_in_progress"]
        store = open_store(server.url)
        log(store, b"u", event(1))
        server.kill()
        server.settings["appendonly"] = "yes"
        server.start()
        assert events_of(store, b"u") == [event(1)]
        store.close()


# What is secret stays so.


def everything(raised) -> str:
    """All that a traceback shows, and more."""
    shown, error = "".join(traceback.format_exception(raised.value)), raised.value
    while error is not None:
        shown += repr(error) + repr(error.args)
        error = error.__cause__ or error.__context__
    return shown


def test_a_password_is_never_shown(tmp_path, impatient):
    with RedisServer(tmp_path, requirepass=PASSWORD) as server:
        for login in (f":{QUOTED}", f"default:{QUOTED}"):
            url = server.url.replace("//", f"//{login}@")
            assert "s3cret" not in repr(redis_client.RedisAddress.parse(url))
            store = open_store(url)
            assert store.url == server.url
            log(store, b"u", event(1)) if not store.totals().users else None
        for login in ("", ":wrong%s3cret@", f"nobody:{QUOTED}@"):
            with pytest.raises(LongrecError, match=r"refuses the login.*user:password") as raised:
                open_store(server.url.replace("//", f"//{login}"))
            assert "s3cret" not in everything(raised)
            assert "nobody" not in everything(raised)
        server.kill()
        with pytest.raises(StoreUnavailable, match="cannot be reached") as raised:
            store.meta()
        assert "s3cret" not in everything(raised)
        store.close()


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{PASSWORD}@localhost:6379/0",
        "redis://:s3cret/pass@localhost:6379/0",
        "redis://:s3cret@localhost:s3cret/0",
        "redis://shop:1234#s3cret@localhost:6379/0",
        "redis://shop:1234/s3cret@localhost:6379/0",
        "redis://:s3cret@localhost:6379/first",
        "redis://:s3cret@localhost:6379/0?socket_timeout=s3cret",
        "redis://:s3cret@localhost:6379/0?decode_responses=true",
        "redis://:s3cret@localhost:6379/0?protocol=3",
        "redis://[s3cret@localhost:6379/0",
    ],
)
def test_a_url_that_cannot_be_read_is_told_without_its_password(url):
    with pytest.raises(UsageError, match=r"cannot be read|is no option") as raised:
        open_store(url)
    assert "s3cret" not in everything(raised)


# What stands there.


def test_prefixes_and_databases_are_stores_of_their_own(server, admin):
    urls = [server.url, server.url + "?prefix=a:", server.url.replace("/0", "/3")]
    stores = [open_store(url) for url in urls]
    assert [store.url for store in stores] == [urls[0], urls[0] + "?prefix=a%3A", urls[2]]
    for number, store in enumerate(stores):
        log(store, b"u", event(number))
    for number, store in enumerate(stores):
        assert events_of(store, b"u") == [event(number)]
        store.close()
    keys = {re.match(rb"longrec:|a:", key)[0] for key in admin.keys("*")}
    assert keys == {b"longrec:", b"a:"}
