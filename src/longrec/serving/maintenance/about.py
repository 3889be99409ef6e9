"""What a person wants to know of a store of users, read beside whoever writes to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from longrec.artifact.folder import RECOMMENDER, read_provenance
from longrec.artifact.policy import policy_words
from longrec.core.errors import DataError
from longrec.data.about import bins_of, moment, spread_of
from longrec.serving.maintenance.retention import models_of
from longrec.serving.stores.log_reader import NO_MODEL, read_users, user_pages
from longrec.serving.stores.protocol import DAMAGED, Store

USERS_READ = 200_000
"""Users whose logs are looked at one by one, the first ones in the order of their ids' bytes."""


def about_store(store: Store, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Users, events, bytes, models, lengths of logs and the last event, as plain values.

    Each user is looked at as at one moment, different users at different ones: writers never wait,
    and no transaction stays open.

    Parameters
    ----------
    store : Store
        Opened readonly.
    progress : callable or None
        Called with (users read, users to read).

    Returns
    -------
    dict
        The keys are those of `longrec info STORE --json` (docs/cli.md).
    """
    meta, totals = store.meta(), store.totals()
    lengths, last_time, read = Counter[int](), None, 0
    wanted = min(totals.users, USERS_READ)
    for users in user_pages(store):
        for user, stored in read_users(store, NO_MODEL, users):
            if not stored.last:
                continue  # forgotten since it was listed
            lengths[stored.last] += 1
            for event in store.events(user, stored.log_id, stored.last - 1, 1):
                if event is not DAMAGED:
                    last_time = event.time if last_time is None else max(last_time, event.time)
        read += len(users)
        if progress is not None:
            progress(min(read, wanted), wanted)
        if read >= USERS_READ:
            break
    models: list[dict[str, Any]] = [
        dict(model) | {"run": meta.get("models", {}).get(model["digest"], {}).get("run")}
        for model in models_of(meta, totals.records)
    ]
    return {
        "kind": "store",
        "url": store.url,
        "whole": "restoring" not in meta,
        "schema": meta.get("schema"),
        "created": meta.get("created"),
        "users": totals.users,
        "events": totals.events,
        "bytes": totals.bytes,
        "models": models,
        "seen_items": next((_policy(model["run"]) for model in models if model["current"]), None),
        "users_read": read,
        "lengths": spread_of(lengths) | {"users": bins_of(lengths)} if lengths else None,
        "last_event": None if last_time is None else moment(last_time),
    }


def _policy(run: str | None) -> str | None:
    """What a run does with items that a user has seen; None where the run is not there any more."""
    if run is None:
        return None
    try:
        config = RECOMMENDER.read_document(Path(run))
        about = read_provenance(Path(run) / "provenance.json")
    except DataError:
        return None
    return policy_words(config.get("exclude_seen", True), about.get("policy"))
