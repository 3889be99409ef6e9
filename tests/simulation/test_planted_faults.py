"""Faults that are planted one at a time are found, each within some seeds."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest
from forking import run_code
from simulation.crashes import survive
from simulation.watched import Watched

from longrec.core import files
from longrec.core.choices import Durability
from longrec.serving.stores import lmdb_file, lmdb_folder
from longrec.serving.stores.high_water import Mark
from longrec.serving.stores.lmdb_folder import LmdbFolder
from longrec.serving.stores.lmdb_store import LmdbStore
from longrec.serving.stores.lmdb_tables import LOG_KEY

WITHIN = 30
"""Seeds within which each is found. Ten are enough; other versions of libraries write otherwise."""


def acknowledged_before_the_sync() -> AbstractContextManager[Any]:
    really = lmdb_file.open_environment

    def open_it(path: Path, durable: bool, readonly: bool, lock: bool = True) -> Any:
        return really(path, False, readonly, lock)

    return patch.object(lmdb_file, "open_environment", open_it)


def mark_before_the_commit() -> AbstractContextManager[Any]:
    really = LmdbFolder.write

    def write(self: LmdbFolder, work: Callable[[Any], Any]) -> Any:
        file = self._file
        self._high_water.write(Mark(file.number, file.env.info()["last_txnid"] + 1))
        return really(self, work)

    return patch.object(LmdbFolder, "write", write)


def rename_without_a_sync_of_the_folder() -> AbstractContextManager[Any]:
    really = lmdb_file.sync
    return planted(
        patch.object(lmdb_file, "sync", lambda path: path.is_dir() or really(path)),
        patch.object(lmdb_file, "sync_names", lambda path: None),
    )


def rename_before_the_sync_of_the_file() -> AbstractContextManager[Any]:
    really = lmdb_file.sync
    return patch.object(lmdb_file, "sync", lambda path: path.is_file() or really(path))


def record_before_its_log() -> AbstractContextManager[Any]:
    really = LmdbStore.append

    def append(self: LmdbStore, digest: str, appends: Any) -> Any:
        def work(tables: Any) -> None:
            for one in appends:
                if one.log_id and one.record is not None:
                    key = bytes.fromhex(digest) + LOG_KEY.pack(one.log_id)
                    tables.put(key, one.record, db=tables.records)

        self._write(work)
        return really(self, digest, appends)

    return patch.object(LmdbStore, "append", append)


def events_in_two_transactions() -> AbstractContextManager[Any]:
    really = LmdbStore.append

    def append(self: LmdbStore, digest: str, appends: Any) -> Any:
        return [done for one in appends for done in really(self, digest, [one])]

    return patch.object(LmdbStore, "append", append)


def pages_after_what_makes_them_valid() -> AbstractContextManager[Any]:
    return patch.object(Watched, "order", lambda self, pages, valid: [valid, pages])


def backup_named_before_its_sync() -> AbstractContextManager[Any]:
    really = files.sync
    return patch.object(files, "sync", lambda path: path.is_file() or really(path))


def names_above_not_synced() -> AbstractContextManager[Any]:
    """As it was: of folders that were made for a store, the upper ones were not on the disk."""
    return patch.object(lmdb_file, "sync_names", lambda path: lmdb_file.sync(path.parent))


def power_cut_that_is_not_told() -> AbstractContextManager[Any]:
    """As it was: after a power cut a store that waits for no disk was taken as it was found."""
    return patch.object(lmdb_folder.LmdbFolder, "_look_for_loss", lambda self, mark: None)


@contextmanager
def planted(*faults: AbstractContextManager[Any]) -> Iterator[None]:
    """Some at a time."""
    with ExitStack() as stack:
        for fault in faults:
            stack.enter_context(fault)
        yield


class Fault(NamedTuple):
    """How it is planted, and what is said of it where that is always the same."""

    plant: Callable[[], AbstractContextManager[Any]]
    words: str | None = None


FAULTS = [
    Fault(acknowledged_before_the_sync),
    Fault(mark_before_the_commit, "nothing is lost, and it says"),
    Fault(rename_without_a_sync_of_the_folder),
    Fault(rename_before_the_sync_of_the_file),
    Fault(record_before_its_log, "verify says"),
    Fault(events_in_two_transactions, "some users are as before the step"),
    Fault(pages_after_what_makes_them_valid),
    Fault(backup_named_before_its_sync),
    Fault(names_above_not_synced),
]


def look_for(plant: Callable[[], AbstractContextManager[Any]], durability: Durability) -> None:
    """Go through seeds until one of them fails."""
    with plant():
        for seed in range(WITHIN):
            survive(seed, durability)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.plant.__name__)
def test_a_planted_fault_is_found(fault) -> None:
    with pytest.raises(Exception, match=fault.words) as found:
        look_for(fault.plant, "power")
    assert "again: PYTHONPATH=src:tests python -m simulation.crashes" in found.value.__notes__[0]


@pytest.mark.slow
def test_a_power_cut_that_is_not_told_is_found() -> None:
    """In a process of its own: LMDB may end it."""
    code = (
        "from simulation.test_planted_faults import look_for, power_cut_that_is_not_told\n"
        "look_for(power_cut_that_is_not_told, 'process')\n"
    )
    _, said = run_code(code, stderr=subprocess.PIPE, text=True).communicate()
    assert "simulation.crashes --seed" in said or "mdb.c" in said
