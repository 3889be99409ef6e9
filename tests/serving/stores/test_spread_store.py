"""Users spread over several Redis servers: what every store does, and that none can be left out."""

from __future__ import annotations

import itertools

import pytest
from serving.stores.store_jobs import USERS, event_of, send
from serving.stores.store_properties import StoreContract

from longrec.core.errors import DataError, UsageError
from longrec.serving.stores.open import open_store
from longrec.serving.stores.protocol import Store
from longrec.serving.stores.redis_store import RedisStore
from longrec.serving.stores.spread_store import PLACE

pytestmark = pytest.mark.slow  # the contract again, beside that of one server
_names = itertools.count()


def urls_of(server, number: int = 3) -> list[str]:
    """Of stores that are apart as servers are, each under a prefix of its own."""
    name = next(_names)
    return [f"{server.url}?prefix=s{name}-{at}:" for at in range(number)]


class TestContract(StoreContract):
    """What every store does."""

    @pytest.fixture
    def open_named(self, shared_server):
        bases = {}

        def opened(name: str) -> Store:
            bases.setdefault(name, urls_of(shared_server))
            return open_store(",".join(bases[name]))

        return opened


def test_each_user_is_on_one_server_and_all_are_found(shared_server):
    urls = urls_of(shared_server)
    store = open_store(",".join(urls))
    for number, user in enumerate(USERS):
        send(store, {user: [event_of(number, 1), event_of(number, 2)]})
    assert store.users(b"", 100) == sorted(USERS)
    assert store.users(sorted(USERS)[0], 1) == sorted(USERS)[1:2]
    assert store.totals().events == 2 * len(USERS)
    held = [one.users(b"", 100) for one in store._stores]
    assert sorted(itertools.chain.from_iterable(held)) == sorted(USERS)
    assert sum(map(bool, held)) > 1
    store.close()


def test_servers_that_are_left_out_or_in_another_order_are_told(shared_server):
    first, second, third = urls_of(shared_server)
    open_store(f"{first},{second},{third}").close()
    open_store(f"{first},{second},{third}").close()
    other, strange = urls_of(shared_server, 2)
    open_store(f"{other},{strange}").close()
    for wrong, words in (
        (f"{second},{first},{third}", "these 3 servers are number 2, 1, 3 of 3"),
        (f"{first},{second}", "these 2 servers are number 1, 2 of 3"),
        (f"{first},{strange}", "these servers are of several stores"),
        (second, "is server 2 of 3 that hold a store together"),
    ):
        with pytest.raises(DataError, match=words):
            open_store(wrong)
    with pytest.raises(UsageError, match="twice"):
        open_store(f"{first},{first}")


def test_a_store_with_users_is_not_spread_by_a_longer_list(shared_server):
    alone, more = urls_of(shared_server, 2)
    store = open_store(alone)
    send(store, {USERS[0]: [event_of(0, 1)]})
    store.close()
    with pytest.raises(DataError, match="are of no store that several hold together"):
        open_store(f"{alone},{more}")
    again = open_store(alone)
    assert again.users(b"", 9) == [USERS[0]]
    again.close()


def test_a_first_opening_that_was_killed_is_gone_on_with(shared_server):
    """Some servers know their places then; and who opens at the same time may log already."""
    first, second, third = urls_of(shared_server)
    whole = f"{first},{second},{third}"
    open_store(whole).close()
    store = RedisStore(second, "process", False)
    store.change_meta(lambda meta: meta.pop(PLACE))
    store.close()
    store = open_store(whole)
    send(store, {user: [event_of(number, 1)] for number, user in enumerate(USERS)})
    ids = [one.log_id for one in store.read("", [(user, ()) for user in USERS])]
    store._stores[1].number_logs_after(0)  # by who looked before
    store.forget(USERS[0])
    send(store, {USERS[0]: [event_of(0, 2)]})
    [new] = store.read("", [(USERS[0], ())])
    assert len({*ids, new.log_id}) == len(USERS) + 1
    store.close()


def test_who_begins_a_store_at_the_same_time_leaves_it_its_id(shared_server, monkeypatch):
    [url] = urls_of(shared_server, 1)
    store = open_store(url)
    meta, looked = RedisStore.meta, []
    begun = meta(store)

    def empty_at_first(self):
        looked.append(self)
        return {} if len(looked) == 1 else meta(self)

    monkeypatch.setattr(RedisStore, "meta", empty_at_first)
    again = open_store(url)
    assert meta(again) == begun
    store.close()
    again.close()


def test_a_password_is_never_shown(shared_server):
    wrong = f"redis://:secret@127.0.0.1:{shared_server.port}/0"
    with pytest.raises(Exception, match="127") as raised:
        open_store(f"{wrong}?prefix=a:,{wrong}?prefix=b:")
    assert "secret" not in str(raised.value)
