"""Every call that changes a store, each as it can be done once only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from serving.stores.store_jobs import send
from serving.stores.store_properties import DIGEST, OTHER, event, read_user, record

from longrec.serving.stores.protocol import Event, Put, Rewrite, Store


def changing_calls(store: Store) -> dict[str, tuple[Callable[[], Any], Any]]:
    """Per name a call, to be made while user `u` has two events, and its answer."""
    log_id = read_user(store, b"u").log_id
    return {
        "append": (lambda: send(store, {b"u": [Event(1, b"i", None)]})[b"u"], ((True,), 3, True)),
        "named": (lambda: send(store, {b"u": [event(9)]})[b"u"], ((True,), 3, True)),
        "put": (lambda: store.put(OTHER, [Put(b"u", log_id, 0, record(1, 2), b"")]), 1),
        "rewrite": (lambda: store.rewrite([Rewrite(b"u", log_id, 2, [event(3)])]), [True]),
        "forget": (lambda: store.forget(b"u"), True),
        "drop": (lambda: store.drop(DIGEST), 1),
        "meta": (lambda: store.change_meta(lambda meta: meta.update(n=meta.get("n", 0) + 1)), None),
    }
