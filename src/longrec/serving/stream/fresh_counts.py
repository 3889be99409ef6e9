"""Transitions kept fresh beside a stream: its log is counted in the background, now and then.

The table that was counted from more events serves: training's, until the log has outgrown it. A
table is never changed; a new one takes the place of the one before together with its index, so
that every request sees one of them in all its parts. While something fails the old one serves on.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any

from longrec.artifact.artifact import Artifact
from longrec.core.errors import LongrecError
from longrec.models.common.scorer import Scorer
from longrec.models.transitions import TransitionsScore
from longrec.retrieval.index import Index
from longrec.serving.stores.protocol import Store
from longrec.serving.stream.counts_snapshot import load_counts, save_counts
from longrec.serving.stream.id_keys import ItemIndex
from longrec.serving.stream.log_counts import LogCounts, LogGone, count_log

REST = 10
"""Times as long as a pass took, at least, until the next one begins."""
SNAPSHOT_EVERY = 300.0
"""Seconds between two snapshots, at least."""
EVERY = 60.0
"""Seconds from the end of one pass to the next one, where nobody says otherwise."""


class Stopped(Exception):
    """The stream is closed: the pass is given up."""


class Pace:
    """Called after each page of a pass: others have as long as it took to themselves.

    Attributes
    ----------
    paused : seconds of all pauses.
    """

    def __init__(self, stopping: threading.Event) -> None:
        self._stopping, self.paused, self._last = stopping, 0.0, monotonic()

    def __call__(self) -> None:
        """Raise Stopped where the stream is closed meanwhile."""
        took = monotonic() - self._last
        if self._stopping.wait(took):
            raise Stopped
        self.paused += took
        self._last = monotonic()


class FreshCounts:
    """Counts a store's log again and again, in a thread of its own, from `start` to `close`.

    Parameters
    ----------
    store, artifact, items : of the stream; the artifact's added score is a TransitionsScore.
    index : of the artifact.
    every : seconds between two passes.
    serve : called with the table and the index that serve from now on.
    """

    def __init__(
        self,
        store: Store,
        artifact: Artifact,
        items: ItemIndex,
        index: Index,
        every: float,
        serve: Callable[[TransitionsScore, Index], None],
    ) -> None:
        assert isinstance(artifact.added, TransitionsScore)
        self._store, self._artifact, self._items = store, artifact, items
        self._of_training = self._serving = artifact.added
        self._index, self._serve, self.every = index, serve, every
        self._counted: LogCounts | None = None
        self._saved: LogCounts | None = None
        self._saved_at = -SNAPSHOT_EVERY
        self._as_of: float | None = None
        self._seconds, self._paused = 0.0, 0.0
        self._error = ""
        self._lock, self._stopping = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="longrec-counts", daemon=True)

    def start(self) -> None:
        """Begin; the first pass begins at once."""
        self._thread.start()

    def close(self) -> None:
        """Give up the pass that goes on, and keep what was counted; before the store is closed."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        with self._lock, suppress(LongrecError, OSError):  # else it is counted anew
            self._keep()

    def refresh(self) -> None:
        """Count what is new in the log, and let it serve if it is more than training's.

        Raises
        ------
        DataError, StoreUnavailable, OSError
            When the log cannot be read, or a snapshot not be written.
        """
        with self._lock:
            if self._counted is None:
                found = load_counts(self._store, self._of_training, self._artifact.catalog_version)
                self._saved = self._counted = found or LogCounts.none(self._of_training)
                self._publish(self._counted)
            begun = monotonic()
            try:
                counted = self._pass(self._counted)
            except LogGone:
                counted = self._pass(LogCounts.none(self._of_training))
                self._saved_at = -SNAPSHOT_EVERY  # nothing of a forgotten user stays in a file
            self._counted, self._as_of = counted, begun
            self._publish(counted)
            if monotonic() - self._saved_at >= SNAPSHOT_EVERY:
                self._keep()

    @property
    def statement(self) -> str:
        """What is counted and when it serves, in plain words."""
        return (
            f"transitions: counted from the log every {self.every:g} s; these counts serve once "
            f"they are of more than the {self._of_training.events:,} events of training's"
        )

    def figures(self) -> dict[str, Any]:
        """Which counts serve, of how many events, and how old those of the log are."""
        counted, as_of = self._counted, self._as_of
        return {
            "serves": "training" if self._serving is self._of_training else "log",
            "events_of_training": self._of_training.events,
            "events_of_log": 0 if counted is None else counted.table.events,
            "age_s": None if as_of is None else monotonic() - as_of,
            "pass_s": self._seconds,
            "error": self._error or None,
        }

    def _run(self) -> None:
        wait = 0.0
        while not self._stopping.wait(wait):
            begun, self._paused = monotonic(), 0.0
            try:
                self.refresh()
                self._error = ""
            except Stopped:
                return
            except Exception as error:
                self._tell(error)
            self._seconds = monotonic() - begun - self._paused
            wait = max(self.every, REST * self._seconds)

    def _pass(self, before: LogCounts) -> LogCounts:
        pace = Pace(self._stopping)
        try:
            return count_log(self._store, self._items, before, pace)
        finally:
            self._paused += pace.paused

    def _publish(self, counted: LogCounts) -> None:
        """Let the table serve that was counted from more events."""
        more = counted.table.events > self._of_training.events
        source = counted.table if more else self._of_training
        if source is not self._serving:
            table = source.served() if more else source
            self._index = self._index.with_scorer(Scorer(self._artifact.model, table))
            self._serve(table, self._index)
            self._serving = source

    def _keep(self) -> None:
        """Write a snapshot of what is new, if the store serves this model and keeps files."""
        if self._counted is self._saved or self._counted is None or self._store.folder is None:
            return
        if self._store.meta().get("current") == self._artifact.state_digest:
            save_counts(self._store, self._counted, self._artifact.catalog_version)
            self._saved, self._saved_at = self._counted, monotonic()

    def _tell(self, error: Exception) -> None:
        """Warn of the first of some failures in a row."""
        words = str(error) if isinstance(error, LongrecError) else repr(error)
        first, self._error = not self._error, words
        if first and not self._stopping.is_set():
            with suppress(UserWarning):  # where warnings are errors there is nobody to catch it
                warnings.warn(
                    f"what followed what could not be counted from the log of {self._store.url}: "
                    f"{words} It is tried again; what was counted before serves on.",
                    UserWarning,
                    stacklevel=2,
                )
