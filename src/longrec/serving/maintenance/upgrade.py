"""A store of before there were checksums, schema 1 or 2, carried over in its place.

The log and the event ids come over. Records are caches of the log and do not: each is made when its
user is next read, or all of them by `longrec store rebuild`.

Nobody else may use the store meanwhile. With LMDB the new file takes the place of the old one when
it is whole; with Redis each user is carried over at once, and an upgrade that was interrupted goes
on when it is called again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from longrec.core.errors import UsageError
from longrec.serving.stores.open import SHARED, scheme_of

Progress = Callable[[int, int], None]


class Upgraded(NamedTuple):
    """What was carried over; `url` is fit to be shown."""

    url: str
    users: int
    events: int


def upgrade(url: str, progress: Progress | None = None) -> Upgraded:
    """Carry a store over to the schema of this longrec.

    Parameters
    ----------
    url : str
        As of `open_store`.
    progress : callable or None
        Called with (events done, events in all).

    Raises
    ------
    UsageError
        When it is of this schema already.
    DataError
        When there is no store, or one that is damaged or of a newer schema.
    LongrecError
        When another process writes to it, or it has no room.
    """
    scheme, rest = scheme_of(url)
    if scheme == "lmdb":
        from longrec.serving.stores.lmdb_upgrade import upgrade_folder

        return Upgraded(*upgrade_folder(rest, progress))
    if scheme in ("redis", "rediss"):
        from longrec.serving.stores.redis_upgrade import upgrade_server

        return Upgraded(*upgrade_server(url, progress))
    if scheme in SHARED:
        raise UsageError(f"give the master's own address, redis://host/0, in place of {scheme}://…")
    raise UsageError(f"{scheme}:// is no store that can be carried over")
