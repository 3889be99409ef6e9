"""Runs of a server that a store is on, and whether each has what the ones before acknowledged.

A run begins when Redis is started, or when a replica becomes the master. What was read in another
run may be gone, or be another event of the same number. So the ids of logs that are given out have
the run in their upper bits: one from before is no log's any more, and whoever asks by it is told
that the log was replaced.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from redis.exceptions import ConnectionError

from longrec.core.choices import Durability
from longrec.serving.stores.damage import Damage
from longrec.serving.stores.high_water import HighWater, Loss, Mark, loss, note_loss, path_of
from longrec.serving.stores.protocol import LOG_ID, RUNS
from longrec.serving.stores.redis_address import RedisAddress
from longrec.serving.stores.redis_settings import (
    IsReplica,
    as_number,
    begin_run,
    check_server,
    read_number,
)

REPLACED = -1
"""In place of the id of a log that was read in another run. No log has it."""


class Run(NamedTuple):
    """A run: its number among those that this process has seen, from 0, and the server's name."""

    number: int
    name: str

    def given(self, log_id: int) -> int:
        """The id of a log as it is given out."""
        return log_id | (self.number % RUNS) * (LOG_ID + 1) if log_id else 0

    def stored(self, given: int) -> int:
        """The id of a log as the server has it; `REPLACED` where it was given in another run."""
        log_id = given & LOG_ID
        return log_id if given == self.given(log_id) else REPLACED


class Runs:
    """Checks each new connection of a store, and keeps the mark of what was acknowledged.

    Attributes
    ----------
    now : the run of the newest connection.
    lost : what was found missing, or None.
    """

    def __init__(self, address: RedisAddress, durability: Durability, readonly: bool) -> None:
        self._address, self._durability, self._readonly = address, durability, readonly
        self._high_water = HighWater(path_of(address.public_url))
        self._mark = Mark(0, 0)
        self.damage = Damage(address.public_url)
        self.now = Run(-1, "")
        self.lost: Loss | None = None
        self._unnoted: Loss | None = None

    def check(self, connection: Any) -> Run:
        """Refuse a server that is no store's, see whether it has what was acknowledged; -> its run.

        A replica is refused for now where Sentinels say where the master is: they may not know yet.
        """
        url, prefix = self._address.public_url, self._address.prefix
        try:
            name = check_server(connection, self._durability, url)
        except IsReplica as error:
            if self._address.sentinels:
                raise ConnectionError("what Sentinel calls the master is a replica") from error
            raise
        if self._readonly:
            begun = read_number(connection, prefix + b"writes")
        else:
            name, begun = begin_run(connection, prefix, name)
        if self.now.name not in ("", name):
            lost = loss(self._mark, self._mark._replace(writes=begun))
            if lost is not None:
                self._mark = self._mark._replace(writes=begun)
            self._lose(lost)
        if self.now.name != name:
            self.now = Run(self.now.number + 1, name)
        return self.now

    def begin(self, store_id: int, found: bytes | None, before: Mark | None) -> None:
        """Take up the mark of a store that has counted so much, of which `before` was known."""
        self._mark = Mark(store_id, as_number(found))
        self._lose(loss(before, self._mark))

    def read_mark(self) -> Mark | None:
        """What was acknowledged when the store was last written to from this machine."""
        return self._high_water.read()

    def acknowledged(self, writes: int) -> None:
        """Keep the mark of a store that has acknowledged so many writes."""
        if writes > self._mark.writes and self._mark.of:
            self._mark = self._mark._replace(writes=writes)
            self._high_water.write(self._mark)

    def take_unnoted(self) -> Any:
        """How a loss that is not in the store's meta yet is noted there; None: there is none."""
        lost, self._unnoted = self._unnoted, None
        return None if lost is None else partial(note_loss, lost=lost)

    def _lose(self, lost: Loss | None) -> None:
        """Tell what the store has lost; the next call that writes notes it there."""
        if lost is not None:
            self.lost = self._unnoted = lost
            self.damage.note("cut", where=str(lost))

    def close(self) -> None:
        self._high_water.close()
