"""Which models a store has records of, and which one it serves: what its meta says."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

import polars as pl

from longrec.artifact.artifact import Artifact
from longrec.core.errors import DataError
from longrec.data.catalog import hash_ids
from longrec.serving.stores.protocol import Store, check_schema, check_whole

DIGITS = 12
"""Hex digits of a digest that messages show."""


def register(store: Store, artifact: Artifact, beside: bool) -> None:
    """Note a recommender in a store's meta; the first one is the one that the store serves.

    Raises
    ------
    DataError
        When the store serves another model and `beside` is False, when records of this model were
        made with another catalog, when a restore has not ended, or the store is of a newer schema.
    """

    def change(meta: dict[str, Any]) -> None:
        check_schema(meta, store.url)
        check_whole(meta, store.url)
        digest, models = artifact.state_digest, meta.setdefault("models", {})
        meta.setdefault("created", datetime.now(UTC).isoformat(timespec="seconds"))
        current = meta.setdefault("current", digest)
        if current != digest and not beside:
            name = models.get(current, {}).get("name", "a model")
            raise DataError(
                f"{store.url} serves {name} ({current[:DIGITS]}…), this recommender is "
                f"{artifact.name} ({digest[:DIGITS]}…), another model or other weights: "
                "`longrec store rebuild URL RUN`, or open_stream(url, beside=True).rebuild(), "
                "makes its records beside the old ones and takes over when they are ready"
            )
        model = models.setdefault(digest, {"name": artifact.name, "catalogs": []})
        _note_catalog(model["catalogs"], artifact, store.url)

    meta = store.meta()
    model = meta.get("models", {}).get(artifact.state_digest, {})
    noted = [catalog["version"] for catalog in model.get("catalogs", [])]
    if meta.get("current") == artifact.state_digest and artifact.catalog_version in noted:
        change(meta)  # to check alone: opening a store again writes nothing
    else:
        store.change_meta(change)


def take_over(store: Store, digest: str) -> None:
    """Let a store serve the model of this digest from now on."""

    def change(meta: dict[str, Any]) -> None:
        meta["current"] = digest
        meta.get("rebuild", {}).pop(digest, None)

    store.change_meta(change)


def _note_catalog(catalogs: list[dict[str, Any]], artifact: Artifact, url: str) -> None:
    """Add a recommender's catalog to those that the records of its model were made with.

    Items may be added at the end, since item indices stand in records. A catalog that was noted
    before stays good, for the replicas that still have it.
    """
    ids, version = artifact.catalog.ids, artifact.catalog_version
    if any(noted["version"] == version for noted in catalogs):
        return
    for noted in catalogs:
        if noted["rows"] != _digest_of(ids[: noted["items"]]):
            raise DataError(
                f"{url} has records of this {artifact.name} with {noted['items']:,} items, and "
                f"its catalog of {len(ids):,} does not begin with these: item indices would mean "
                "other items. Open it with the recommender that has them, or with one made of "
                "that by with_items(); with any other catalog, use another store"
            )
    catalogs.append({"version": version, "items": len(ids), "rows": _digest_of(ids)})


def _digest_of(ids: pl.Series) -> str:
    """Digest of ids as text, so that their type does not matter."""
    hasher = hashlib.sha256()
    hash_ids(hasher, ids if ids.dtype == pl.Binary else ids.cast(pl.String))
    return hasher.hexdigest()
