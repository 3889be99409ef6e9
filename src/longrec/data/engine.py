"""The engine that reads logs: a DuckDB database of its own for each log, within a memory limit.

What does not fit is spilled to a hidden folder beside the result, which goes with the process. What
the engine says is never taken as such: rows are counted after each stage by whoever calls it, and
its guesses (of dialects, types and time zones) are switched off.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from tempfile import gettempdir
from typing import Any, TypeVar

import polars as pl
import pyarrow as pa

from longrec.core.errors import DataError, LongrecError, UsageError, first_line
from longrec.core.memory import available_memory, give_back_freed_memory, resident_bytes
from longrec.core.threads import of_machine
from longrec.core.work_folder import WorkFolder

Progress = Callable[[float], None]
"""Called now and then with the share of a query that is done."""
StageProgress = Callable[[str, float], None]
"""Called with what is being done and the share of it that is."""
R = TypeVar("R")
LEAST = 128 << 20
"""Bytes that the engine works with at least."""
SHARE_PERCENT = 55
"""How much of the memory that is left is the engine's own limit: it takes some beside it, and so do
batches on their way, and counts by user and item."""
ROWS = 1 << 17
"""Rows of a batch that goes through this process."""


class Engine:
    """A database in memory that spills to a folder of its own.

    Parameters
    ----------
    memory : bytes that this process may hold while it works; None: half of what is free.
    place : path beside which the hidden folder stands; None: in the system's temporary folder.
    threads : that work; None: as many as this process may use cores.

    Raises
    ------
    UsageError
        When so little memory is allowed that nothing could be read.
    """

    def __init__(
        self, memory: int | None = None, place: Path | None = None, threads: int | None = None
    ) -> None:
        import duckdb

        self.memory = memory
        if memory is None:
            limit = max(available_memory() // 2, LEAST)
        else:
            limit = memory_left(memory, resident_bytes() or 0)
        place = place or Path(gettempdir()) / "longrec"
        try:
            self.work = WorkFolder(place)
        except OSError as error:
            raise DataError(
                f"{place.parent}: nothing can be written there ({error.strerror}). Name another "
                "place."
            ) from error
        settings: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": f"{limit >> 20}MiB",
            "temp_directory": str(self.work.path),
            "threads": threads or of_machine().number,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        self._base = duckdb.connect(":memory:", config=settings)
        # Times without an offset are UTC, whatever the machine's own zone is.
        self._base.execute("SET TimeZone='UTC'")
        # How far a query is, is counted only if it could be shown.
        self._base.execute("SET enable_progress_bar=true")
        self._base.execute("SET enable_progress_bar_print=false")
        self._frames = 0
        # One thread for all queries, which starts here: Ctrl-C while one starts would lose it.
        self._thread = ThreadPoolExecutor(1, "longrec-log")
        self._thread.submit(int).result()

    def make_room(self) -> None:
        """Let the engine take less where this process took memory meanwhile, as for ids."""
        if self.memory is not None:
            own = self.row("SELECT sum(memory_usage_bytes)::BIGINT AS n FROM duckdb_memory()")["n"]
            give_back_freed_memory()
            others = max((resident_bytes() or 0) - own, 0)
            limit = max((self.memory - others) * SHARE_PERCENT // 100, LEAST // 2)
            self.run(f"SET memory_limit = '{limit >> 20}MiB'")

    def run(
        self, sql: str, parameters: Sequence[Any] = (), progress: Progress | None = None
    ) -> list[tuple[Any, ...]]:
        """Carry out a statement, and its rows: of one that changes a table, how many it changed.

        Errors of the engine come as `engine_errors()`.
        """
        return self._carry_out(
            lambda: self._base.execute(sql, list(parameters)).fetchall(), progress
        )

    def _carry_out(self, work: Callable[[], R], progress: Progress | None = None) -> R:
        """Let the engine work in a thread of its own: it looks at no Ctrl-C while it does."""
        try:
            future = self._thread.submit(work)
            while not wait([future], timeout=0.2).done:
                if progress is not None:
                    progress(max(self._base.query_progress(), 0) / 100)
        except BaseException:
            last = self._thread.submit(int)  # behind the work, which may be there without a future
            while not wait([last], timeout=0.05).done:  # it may not have begun when it was told
                self._base.interrupt()
            raise
        return future.result()

    def row(self, sql: str, parameters: Sequence[Any] = ()) -> dict[str, Any]:
        """The one row of a query, by the names of its columns."""
        [values] = self.run(sql, parameters)
        names = [column[0] for column in self._base.description or ()]
        return dict(zip(names, values, strict=True))

    def frame(self, sql: str) -> pl.DataFrame:
        """A result as a frame."""
        found = pl.from_arrow(self._carry_out(lambda: self._base.sql(sql).to_arrow_table()))
        assert isinstance(found, pl.DataFrame)
        return found

    def batches(self, sql: str) -> Iterator[pl.DataFrame]:
        """A result in order, some rows at a time."""
        reader = self._carry_out(lambda: self._base.sql(sql).to_arrow_reader(ROWS))
        while (batch := self._carry_out(lambda: next(reader, None))) is not None:
            frame = pl.from_arrow(batch)
            assert isinstance(frame, pl.DataFrame)
            yield frame

    def register(self, table: pa.Table) -> str:
        """Name a table, which is not copied, so that queries can read it."""
        self._frames += 1
        name = f"frame_{self._frames}"
        self._base.register(name, table)
        return name

    @contextmanager
    def seen(self, table: pa.Table) -> Iterator[str]:
        """The same for as long as the block lasts."""
        name = self.register(table)
        try:
            yield name
        finally:
            self._base.unregister(name)

    def close(self) -> None:
        """Free memory and folder."""
        self._thread.shutdown()
        self._base.close()
        self.work.close()


def memory_left(memory: int, held: int) -> int:
    """What the engine may take where the whole process may hold `memory` bytes and holds `held`.

    Raises
    ------
    UsageError
        When nothing to speak of would be left.
    """
    left = (memory - held) * SHARE_PERCENT // 100
    if left < LEAST:
        least = held + LEAST * 100 // SHARE_PERCENT
        raise UsageError(
            f"memory is {memory >> 20:,} MiB, of which {held >> 20:,} are in use before a row is "
            f"read: allow {(least >> 20) + 1:,} MiB or more"
        )
    return left


def engine_errors() -> tuple[type[BaseException], ...]:
    """What the engine raises."""
    import duckdb

    return (duckdb.Error, pa.ArrowException, OSError)


def unreadable(name: str, error: BaseException, hint: str) -> LongrecError:
    """The error for a file that could not be read, or for a full disk or memory on the way."""
    import duckdb

    if "No space left" in str(error) or "failed to offload" in str(error):
        return LongrecError(
            f"{name}: the disk beside the result is full ({_cause(error)}): free space on it, or "
            "name another place"
        )
    if isinstance(error, duckdb.OutOfMemoryException):
        return LongrecError(
            f"{name}: not enough memory ({_cause(error)}): allow more with memory= (--memory)"
        )
    return DataError(f"{name} cannot be read ({_cause(error)}): {hint}.")


def _cause(error: BaseException) -> str:
    return first_line(error).replace("IO Error: ", "").replace("Invalid Input Error: ", "")


def quoted(name: str) -> str:
    """A column's name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def path_literal(path: Path) -> str:
    """The path of one file in SQL, in which the engine would take `*`, `?` and `[` for a glob."""
    return literal(glob.escape(str(path)))


def literal(value: str | int | bool) -> str:
    """A value in SQL."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"
