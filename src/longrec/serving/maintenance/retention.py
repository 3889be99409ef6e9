"""The models of a store, and what is left of those that it serves no more."""

from __future__ import annotations

from typing import Any, TypedDict

from longrec.serving.stores.protocol import Store, check_whole


class ModelOfStore(TypedDict):
    """A model in a store: whether it is the one served, and how many records there are of it."""

    name: str
    digest: str
    current: bool
    records: int


def models_of(meta: dict[str, Any], records: dict[str, int]) -> list[ModelOfStore]:
    """The models that a store's meta names or that have records, the one served first."""
    known, current = meta.get("models", {}), meta.get("current")
    digests = sorted({*known, *records}, key=lambda digest: (digest != current, digest))
    return [
        {
            "name": known.get(digest, {}).get("name", "unknown"),
            "digest": digest,
            "current": digest == current,
            "records": records.get(digest, 0),
        }
        for digest in digests
    ]


def drop_old(store: Store) -> list[ModelOfStore]:
    """Delete the records of models that a store serves no more; -> which.

    One that is being built beside stays, and all do in a store that serves none.
    """
    meta = store.meta()
    check_whole(meta, store.url)
    if meta.get("current") is None:
        return []
    built = meta.get("rebuild", {})
    old = [
        model
        for model in models_of(meta, store.totals().records)
        if not model["current"] and model["digest"] not in built
    ]
    for model in old:
        model["records"] = store.drop(model["digest"])
    dropped = {model["digest"] for model in old}

    def change(meta: dict[str, Any]) -> None:
        models = meta.get("models", {})
        meta["models"] = {key: value for key, value in models.items() if key not in dropped}

    if dropped:
        store.change_meta(change)
    return old
