"""Whether a recommender's catalog has the items that a store's events are of, not others' ids."""

from __future__ import annotations

import hashlib
from typing import Any

import polars as pl

from longrec.artifact.artifact import Artifact
from longrec.core.errors import DataError
from longrec.data.catalog import hash_ids
from longrec.serving.stores.log_reader import NO_MODEL
from longrec.serving.stores.protocol import Store
from longrec.serving.stream.id_keys import ItemIndex

USERS, EVENTS = 128, 64
"""Users, and events of each, that are looked at."""


def check_catalog(store: Store, meta: dict[str, Any], artifact: Artifact) -> None:
    """Refuse another catalog than that of the model which a store serves, if they share ids.

    Ids of items are often plain numbers: those of one shop are then items of any other's catalog,
    and a model of the other would read histories that nobody has. A catalog that begins with the
    old one is the same, grown; a run that was trained on from the one served (`warm_start`) knows
    by its items' ids what it learnt of them.

    Raises
    ------
    DataError
        When logged events are of ids that the catalog has, too.
    """
    served = meta.get("models", {}).get(meta.get("current"))
    if served is None or is_grown(served["catalogs"], artifact):
        return
    before = artifact.provenance.get("warm_start", {}).get("run")
    if before is not None and before == served.get("run"):
        return
    known, logged = _known_events(store, artifact)
    if known:
        raise DataError(
            f"{artifact.folder or artifact.name} has another catalog than {served['name']}, which "
            f"{store.url} serves, and they share ids: of {logged:,} logged events looked at "
            f"{known:,} would count as events of its items. If the same ids are the same items "
            "(say, a training on a newer log), allow it: --another-catalog (in Python "
            "another_catalog=True); else use another store"
        )


def is_grown(catalogs: list[dict[str, Any]], artifact: Artifact) -> bool:
    """Whether a catalog begins with one of those that a store's meta notes."""
    ids = artifact.catalog.ids
    return any(
        noted["items"] <= len(ids) and noted["rows"] == digest_of(ids[: noted["items"]])
        for noted in catalogs
    )


def digest_of(ids: pl.Series) -> str:
    """Digest of ids as text, so that their type does not matter."""
    hasher = hashlib.sha256()
    hash_ids(hasher, ids if ids.dtype == pl.Binary else ids.cast(pl.String))
    return hasher.hexdigest()


def _known_events(store: Store, artifact: Artifact) -> tuple[int, int]:
    """Of some logged events, how many are of items that a catalog has, and how many these are."""
    users = store.users(b"", USERS)
    items: list[bytes] = []
    stored = store.read(NO_MODEL, [(user, ()) for user in users])
    for user, one in zip(users, stored, strict=True):
        items += [event.item for event in store.events(user, one.log_id, 0, EVENTS)]
    found = ItemIndex(artifact.catalog).find(items) if items else ()
    return sum(bool(index) for index in found), len(items)
