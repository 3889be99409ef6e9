"""All portions of a log loaded by workers, and what they found put together as of whole files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from longrec.cluster import log_tasks
from longrec.cluster.log_tasks import Loaded, Loading
from longrec.cluster.portions import PART, Portion, portions_of, whole
from longrec.cluster.ray_cluster import Cluster
from longrec.core.errors import DataError
from longrec.data.bad_rows import BadRow, refusal
from longrec.data.engine import StageProgress
from longrec.data.load import Loader

Found = list[tuple[Portion, Loaded | None]]


class Reading:
    """Loads a log.

    Parameters
    ----------
    cluster : whose workers load it.
    how : they do.
    loader : is told what they find, as if it had loaded the log.
    progress : is told how far they are.

    Attributes
    ----------
    rows : that they loaded.
    """

    def __init__(
        self, cluster: Cluster, how: Loading, loader: Loader, progress: StageProgress | None
    ) -> None:
        self.cluster, self.how, self.loader, self.progress = cluster, how, loader, progress
        self.rows, self._calls = 0, 0
        self._files, self._uncut = list[Path](), list[Portion]()
        self._starts: dict[int, int] = {}

    def read(self) -> list[Path]:
        """Load everything -> the files in which it is now.

        Raises
        ------
        DataError
            The same as on one machine, of the first file that has one.
        """
        portions = portions_of(self.loader.parts, self.loader.encoding, self.cluster.slots)
        try:
            self._load(portions, "reading the log")
        except DataError:
            self._load(self._uncut, "reading whole files")  # one before may have an error, too
            raise
        self._load(self._uncut, "reading whole files")
        self.loader.starts = dict(sorted(self._starts.items()))
        return self._files

    def _load(self, portions: Sequence[Portion], words: str) -> None:
        """Load portions, and note which files cannot be loaded in pieces."""
        calls = [(self.how, self._calls + n, one) for n, one in enumerate(portions)]
        self._calls += len(calls)
        results = self.cluster.run(log_tasks.load, calls, told(self.progress, words, len(calls)))
        pieces: Found = []
        for portion, found in zip(portions, results, strict=True):
            pieces.append((portion, found))
            if not portion.last:
                continue
            loaded = _standing_alone(pieces)
            if loaded is None:
                self._uncut.append(whole(portion, self.loader.parts[portion.first]))
            else:
                self._take(loaded)
            pieces = []

    def _take(self, pieces: Sequence[tuple[Portion, Loaded]]) -> None:
        """Take what was loaded of some files, or of all pieces of one."""
        rows = lines = 0
        bad = list[tuple[int, int, str, str]]()
        for portion, found in pieces:
            self._files.append(found.file)
            self.rows += found.rows
            for number in range(portion.first, portion.first + len(portion.parts)):
                self._starts[number * PART + portion.begin] = rows
            bad += [(part, line + lines, cause, text) for part, line, cause, text in found.bad]
            self.loader.again += [replace(row, line=row.line + lines) for row in found.again]
            rows, lines = rows + found.read, lines + found.marks[0]
            self.loader.goes_on |= found.goes_on
        if bad and not self.how.keep_bad:
            part = self.loader.parts[bad[0][0]]
            raise refusal(part, [BadRow(part.name, *row[1:]) for row in bad])
        self.loader.add_bad(bad)


def _standing_alone(pieces: Found) -> list[tuple[Portion, Loaded]] | None:
    """What was loaded, if pieces among it have the rows that the whole file has; else None.

    No cut is inside of quote marks where those of each piece are even and all are read as CSV has
    them; without any, every rule reads the same.
    """
    loaded = [(portion, found) for portion, found in pieces if found is not None]
    portion = pieces[0][0]
    if len(loaded) == len(pieces) and portion.is_piece and portion.parts[0].kind == "text":
        found = [one for _, one in loaded]
        quotes = [one.marks[1] for one in found]
        as_csv = all(one.goes_on[portion.first] for one in found)
        if any(count % 2 for count in quotes) or not as_csv:
            return None
        odd = any(quotes) and any(one.bad or one.again for one in found)
        return None if odd else loaded
    return loaded if len(loaded) == len(pieces) else None


def told(progress: StageProgress | None, words: str, calls: int) -> Callable[[int], None] | None:
    """Tells how many of some calls are done."""
    return None if progress is None else lambda count: progress(words, count / max(calls, 1))
