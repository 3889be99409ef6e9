"""Which models a store has records of, and which one it serves: what its meta says."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from longrec.artifact.artifact import Artifact
from longrec.core.errors import DataError
from longrec.serving.stores.protocol import Store, check_schema, check_whole
from longrec.serving.stream.catalog_change import check_catalog, digest_of

DIGITS = 12
"""Hex digits of a digest that messages show."""


def register(store: Store, artifact: Artifact, beside: bool, another_catalog: bool = False) -> None:
    """Note a recommender in a store's meta; the first one is the one that the store serves.

    Parameters
    ----------
    beside : whether the store may serve another model.
    another_catalog : whether that one may have another catalog; see `check_catalog`.

    Raises
    ------
    DataError
        When the store serves another model and `beside` is False, or one of another catalog and
        `another_catalog` is False; when records of this model were made with another catalog; when
        a restore has not ended, or the store is of a newer schema.
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
                f"{artifact.name} ({digest[:DIGITS]}…), another model, other weights or a "
                "state of another version of longrec. Let the store serve it, which makes its "
                "records beside the old ones and takes over when they are ready: "
                f"{rebuild_command(store.url, artifact)}"
            )
        model = models.setdefault(
            digest,
            {"name": artifact.name, "catalogs": [], "applied": artifact.catalog_version},
        )
        model.setdefault("run", None if artifact.folder is None else str(artifact.folder.resolve()))
        _note_catalog(model["catalogs"], artifact, store.url)

    meta = store.meta()
    model = meta.get("models", {}).get(artifact.state_digest, {})
    noted = [catalog["version"] for catalog in model.get("catalogs", [])]
    if artifact.catalog_version in noted:
        change(meta)  # to check alone: opening a store again writes nothing
        return
    if beside and not another_catalog:
        check_catalog(store, meta, artifact)
    store.change_meta(change)


def rebuild_command(url: str, artifact: Artifact) -> str:
    """The command that makes a recommender's records in a store and lets the store serve it."""
    if artifact.folder is None:
        return f"save it to a folder, then longrec store rebuild {shlex.quote(url)} FOLDER"
    plugin = artifact.provenance.get("plugin")
    words = ["longrec", "store", "rebuild", url, str(artifact.folder)]
    return shlex.join(words + (["--plugin", plugin] if plugin else []))


def take_over(store: Store, artifact: Artifact) -> None:
    """Let a store serve a model, whose records have all been made, from now on."""

    def change(meta: dict[str, Any]) -> None:
        meta["current"] = artifact.state_digest
        _note_applied(meta, artifact)

    store.change_meta(change)


def note_applied(store: Store, artifact: Artifact) -> None:
    """Note that no record of a model has skipped an event of an item that its catalog has."""
    store.change_meta(lambda meta: _note_applied(meta, artifact))


def other_models(meta: dict[str, Any], digest: str) -> list[str]:
    """Digests of all models that a store's meta notes but for one."""
    return sorted({*meta.get("models", {}), *meta.get("rebuild", {})} - {digest})


def give_up(store: Store, digests: Sequence[str]) -> None:
    """Do not go on with rebuilds of models that are served no more."""

    def change(meta: dict[str, Any]) -> None:
        for digest in digests:
            meta.get("rebuild", {}).pop(digest, None)

    if any(digest in store.meta().get("rebuild", {}) for digest in digests):
        store.change_meta(change)


def _note_applied(meta: dict[str, Any], artifact: Artifact) -> None:
    digest = artifact.state_digest
    meta.get("rebuild", {}).pop(digest, None)
    if digest in meta.get("models", {}):
        meta["models"][digest]["applied"] = artifact.catalog_version


def new_items(meta: dict[str, Any], artifact: Artifact) -> int:
    """How many items of a catalog records of its model may have skipped events of, being older."""
    model = meta.get("models", {}).get(artifact.state_digest)
    if not model or not model["catalogs"]:
        return 0
    return max(0, artifact.catalog.n_items - _applied_items(model))


def note_skipping(store: Store, artifact: Artifact) -> None:
    """Note that an event of an item that a catalog lacks is skipped by a record.

    A replica may have a smaller catalog than the one that was applied to all records: then it is
    so no more, and whoever opens the store with the larger one applies it again.
    """
    digest, items = artifact.state_digest, artifact.catalog.n_items

    def behind(meta: dict[str, Any]) -> bool:
        model = meta.get("models", {}).get(digest)
        return bool(model) and _applied_items(model) > items

    def change(meta: dict[str, Any]) -> None:
        if behind(meta):
            del meta["models"][digest]["applied"]

    if behind(store.meta()):
        store.change_meta(change)


def _applied_items(model: dict[str, Any]) -> int:
    """Items of the catalog that was applied to all records of a model.

    Where none is noted, as in stores of earlier versions, it is the smallest that they were made
    with.
    """
    sizes = {catalog["version"]: catalog["items"] for catalog in model["catalogs"]}
    return int(sizes.get(model.get("applied"), min(sizes.values())))


def _note_catalog(catalogs: list[dict[str, Any]], artifact: Artifact, url: str) -> None:
    """Add a recommender's catalog to those that the records of its model were made with.

    Items may be added at the end, since item indices stand in records. A catalog that was noted
    before stays good, for the replicas that still have it.
    """
    ids, version = artifact.catalog.ids, artifact.catalog_version
    if any(noted["version"] == version for noted in catalogs):
        return
    for noted in catalogs:
        if noted["rows"] != digest_of(ids[: noted["items"]]):
            raise DataError(
                f"{url} has records of this {artifact.name} with {noted['items']:,} items, and "
                f"its catalog of {len(ids):,} does not begin with these: item indices would mean "
                "other items. Open it with the recommender that has them, or with one made of "
                "that by with_items(); with any other catalog, use another store"
            )
    catalogs.append({"version": version, "items": len(ids), "rows": digest_of(ids)})
