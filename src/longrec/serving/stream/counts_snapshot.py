"""What is counted of a log, kept beside its store, so that a restart goes on with it.

    STORE/transitions/transitions.json          settings, the catalog's version, a token, digests
    STORE/transitions/transitions.safetensors   the table, and how far each log is counted

A snapshot must not know of events that the log has lost, in a power cut or since an older copy of
the store was put in its place. So a token is written into the store's meta behind these events, and
then into the snapshot: one whose token the store does not have is left alone. No id of a user is in
it.
"""

from __future__ import annotations

import secrets
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import load_file, save_file

from longrec.core.errors import DataError
from longrec.core.sealed import SealedKind
from longrec.models.transitions import TransitionsScore
from longrec.serving.stores.protocol import Store
from longrec.serving.stream.log_counts import LogCounts

FOLDER, TENSORS = "transitions", "transitions.safetensors"
SNAPSHOT = SealedKind(
    "a snapshot of what followed what",
    "transitions.json",
    version=1,
    mend="delete the folder, and the log is counted anew",
    made_by="longrec serve",
    keys={"settings": dict, "catalog_version": str, "token": str},
    files=(TENSORS,),
)
TOKENS = "counted"
"""Key of a store's meta: the tokens of the last snapshots, the newest last."""
KEPT = 4
"""Tokens kept: that of the snapshot, and of some that processes were killed before they wrote."""
OF_TABLE = ("counts", "starts", "followers", "times")


def save_counts(store: Store, counted: LogCounts, catalog_version: str) -> None:
    """Write a snapshot where the store keeps files, in place of the one before.

    Raises
    ------
    OSError, LongrecError
        When it cannot be written; the one before stays.
    """
    assert store.folder is not None
    token = secrets.token_hex(16)

    def note(meta: dict[str, Any]) -> None:
        meta[TOKENS] = [*meta.get(TOKENS, []), token][-KEPT:]

    store.change_meta(note)
    table = counted.table
    tensors = {name: getattr(table, name).numpy() for name in OF_TABLE}
    tensors |= {"logs": counted.logs, "numbers": counted.numbers, "tails": counted.tails}

    def write(folder: Path) -> None:
        save_file(tensors, folder / TENSORS)

    (store.folder / FOLDER).mkdir(mode=0o700, exist_ok=True)  # as the store's own files are
    about = {"settings": _settings(table), "catalog_version": catalog_version, "token": token}
    SNAPSHOT.replace(store.folder / FOLDER, about, write)


def load_counts(store: Store, like: TransitionsScore, catalog_version: str) -> LogCounts | None:
    """What is counted, at the weight of a table; None where no snapshot of this log is whole.

    Parameters
    ----------
    store : Store
    like : TransitionsScore
        Of the stream's recommender.
    catalog_version : str
        Of the same: item indices stand in a snapshot.
    """
    if store.folder is None or not (store.folder / FOLDER).is_dir():
        return None
    try:
        document, tensors = SNAPSHOT.read_whole(
            store.folder / FOLDER, lambda document, files: (document, load_file(files[TENSORS]))
        )
    except (DataError, OSError):
        return None  # counted anew
    same = (document["settings"], document["catalog_version"]) == (_settings(like), catalog_version)
    if not same or document["token"] not in store.meta().get(TOKENS, []):
        return None
    table = TransitionsScore(like.config, like.n_items)
    table.restore({name: torch.from_numpy(tensors[name]) for name in OF_TABLE})
    return LogCounts(table.eval(), tensors["logs"], tensors["numbers"], tensors["tails"])


def _settings(table: TransitionsScore) -> dict[str, Any]:
    """What the counts depend on."""
    return {key: asdict(table.config)[key] for key in ("last", "decay")}
