"""Records that are behind their log go on to its end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from longrec.core.arrays import Ints
from longrec.serving.records.engine import Engine
from longrec.serving.stores.damage import Damage
from longrec.serving.stores.protocol import Store, StoredUser
from longrec.serving.stream.id_keys import ItemIndex

CHUNK = 4096
"""Events of one user read at once."""
AT_ONCE = 4_096
"""Events of all users read at once: others who need the model wait for so many."""


def records_of(
    engine: Engine, stored: Sequence[StoredUser], damage: Damage
) -> tuple[np.ndarray, list[int]]:
    """The records of users (n,), empty ones for those without, or whose record is damaged; and the
    rows of the latter.

    A record that is ahead of its log is of a log that was lost, and is damaged, too.

    Raises
    ------
    DataError
        When one is no record of this model, and so is no cache of any log.
    """
    records = engine.layout.load([one.record for one in stored])
    reached = records["sequence"].tolist()
    ahead = [row for row, one in enumerate(stored) if reached[row] > one.last]
    if ahead:
        damage.note("record", len(ahead), "it is ahead of its log")
        records[ahead] = engine.layout.load([None])
    return records, ahead + [row for row, one in enumerate(stored) if one.damaged]


def catch_up(
    store: Store,
    engine: Engine,
    items: ItemIndex,
    users: Sequence[bytes],
    stored: Sequence[StoredUser],
    records: np.ndarray,
) -> dict[int, Ints]:
    """Let records (n,) go on to the ends of their logs, `stored.last`, in place.

    A record stays behind where its log was replaced by another one meanwhile.

    Returns
    -------
    dict
        Per row that went on, the indices of the items replayed, to be added to the seen ones.
    """
    if len(stored) == 1 and records["sequence"][0] == stored[0].last:  # the usual case
        return {}
    last = np.array([one.last for one in stored], np.int64)
    missing = last - records["sequence"]
    behind = np.argsort(-missing, kind="stable")[: int((missing > 0).sum())].tolist()  # alike ones
    replayed: dict[int, list[Ints]] = {row: [] for row in behind}
    while behind:
        rows, parts, left = [], [], AT_ONCE
        for row in behind:
            done = int(records["sequence"][row])
            wanted = min(CHUNK, int(last[row]) - done, left)
            events = store.events(users[row], stored[row].log_id, done, wanted)
            if len(events) == wanted:
                rows.append(row)
                parts.append(events)
                left -= wanted
            else:
                last[row] = 0
            if not left:
                break
        flat = [event.item for events in parts for event in events]
        found = items.find(flat)
        ends = np.cumsum([len(events) for events in parts]).tolist()
        histories = [
            engine.moments(found[end - len(events) : end], events)
            for events, end in zip(parts, ends, strict=True)
        ]
        chosen = records[rows]
        engine.advance(chosen, histories)
        records[rows] = chosen
        for row, history in zip(rows, histories, strict=True):
            known = np.unique(np.array([moment[0] for moment in history], np.int64))
            replayed[row].append(known[known > 0])
        behind = [row for row in behind if records["sequence"][row] < last[row]]
    return {row: np.unique(np.concatenate(some)) for row, some in replayed.items() if some}


def seen_items(seen: bytes) -> Ints:
    """The item indices in a bitmap, ascending."""
    return np.flatnonzero(np.unpackbits(np.frombuffer(seen, np.uint8), bitorder="little"))


def bitmap(indices: Ints) -> bytes:
    """The bitmap of item indices."""
    whole = np.zeros(int(indices.max(initial=-1)) + 1, bool)
    whole[indices] = True
    return np.packbits(whole, bitorder="little").tobytes()
