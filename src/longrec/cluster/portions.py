"""A log in portions, each what one call loads: some small files, one, or a piece of a large one.

Parquet is cut between its row groups, text and JSON lines behind line ends. Whether a text file may
be cut is known when its pieces were loaded: a quoted field may go on over a line end, and where
quote marks are odd, the whole file tells by which rule they are read (`Loader`). Packed text, and
text that is not UTF-8, is not cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq

from longrec.core.errors import DataError
from longrec.data.files import File
from longrec.data.sources import Part
from longrec.data.text_files import BLOCK, encoding_to_read, piece_ends

PART = 1 << 40
"""More rows, and bytes of text, than a part has: a row's number is its part's times this, and its
place there."""
ENCODING = "utf-8"
"""Of text that is cut."""
MOST = 1 << 26
"""Bytes of files in a portion, at most where files can be cut."""
LEAST = 1 << 23
"""The same, below which files are not cut to give every process some."""


@dataclass(frozen=True)
class Portion:
    """What one call loads.

    Attributes
    ----------
    first : number of the first of the parts; the others follow it.
    parts : parts of the log, or a piece of one.
    stamps : size and time of change of each file, when the log was divided.
    last : whether no further piece of its part follows.
    """

    first: int
    parts: Sequence[Part]
    stamps: Sequence[tuple[int, int]]
    last: bool = True

    @property
    def is_piece(self) -> bool:
        """Whether it is a piece of a file."""
        return self.parts[0].span is not None

    @property
    def begin(self) -> int:
        """The place in its part where a piece begins."""
        return 0 if self.parts[0].span is None else self.parts[0].span[0]

    def check(self) -> None:
        """Raise DataError if a file is not what it was when the log was divided."""
        for part, stamp in zip(self.parts, self.stamps, strict=True):
            assert part.file is not None
            if stamp_of(part.file) != stamp:
                raise DataError(
                    f"{part.name} was changed while it was read: run the command again when nobody "
                    "writes to the log."
                )


def stamp_of(file: File) -> tuple[int, int]:
    """Size and time of change; (-1, -1) of a file that is gone."""
    try:
        found = file.path.stat()
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def portions_of(parts: Sequence[Part], encoding: str | None, processes: int) -> list[Portion]:
    """The portions of a log, in its order, so that each of some processes has one if possible.

    encoding : that was stated of text files.
    """
    files = [part.file for part in parts if part.file is not None]
    stamps = [stamp_of(file) for file in files]
    total = sum(size for size, _ in stamps)
    size = min(MOST, max(LEAST, -(-total // processes)))
    portions, room = list[Portion](), 0
    for number, (part, stamp) in enumerate(zip(parts, stamps, strict=True)):
        pieces = _pieces(part, stamp[0], size, encoding)
        if len(pieces) > 1:
            portions += [Portion(number, [one], [stamp], one is pieces[-1]) for one in pieces]
            room = 0
            continue
        if room < stamp[0]:
            portions.append(Portion(number, [], []))
            room = size
        last = portions[-1]
        portions[-1] = replace(last, parts=[*last.parts, part], stamps=[*last.stamps, stamp])
        room -= stamp[0]
    return portions


def whole(portion: Portion, part: Part) -> Portion:
    """The portion of a part of which another is a piece."""
    return replace(portion, parts=[part], last=True)


def _pieces(part: Part, bytes_: int, size: int, encoding: str | None) -> list[Part]:
    """A part in pieces of some bytes, or as it is."""
    assert part.file is not None
    if not size < bytes_ < PART:
        return [part]
    if part.kind == "parquet":
        ends = _ends_of_groups(part, -(-bytes_ // size))
    elif part.file.packing or encoding_to_read(part.file, encoding) != ENCODING:
        return [part]
    else:
        ends = piece_ends(part.file, size)
    if len(ends) < 2:
        return [part]
    pieces = [replace(part, span=span) for span in zip([0, *ends], ends, strict=False)]
    if part.dialect is not None:  # the header is in the first one
        rows = replace(part.dialect, skip=0)
        pieces[1:] = [replace(piece, dialect=rows) for piece in pieces[1:]]
    return pieces


def _ends_of_groups(part: Part, wanted: int) -> list[int]:
    """Rows at which a Parquet file is cut, between its row groups, and at its end."""
    assert part.file is not None
    if "file_row_number" in map(str.lower, part.types):  # the engine's own name for rows
        return [0]
    about = pq.read_metadata(part.file.path)
    ends, row = list[int](), 0
    for group in range(about.num_row_groups):
        row += about.row_group(group).num_rows
        if row >= about.num_rows * (len(ends) + 1) / wanted:
            ends.append(row)
    return ends


def marks_in(path: Path) -> tuple[int, int]:
    """How many line ends and quote marks a text file has that is not packed."""
    lines = quotes = 0
    with path.open("rb") as raw:
        while block := raw.read(BLOCK):
            lines += block.count(b"\n")
            quotes += block.count(b'"')
    return lines, quotes
