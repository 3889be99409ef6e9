"""Text files as the engine can read them: how they are packed, spelt and divided.

Nothing is guessed from a sample that a later row could contradict: fields are divided by the mark
that the first line has, and quote marks by the first of three rules under which every row is whole.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from longrec.core.errors import DataError, LongrecError, UsageError, first_line
from longrec.core.format import listed
from longrec.data.engine import unreadable
from longrec.data.files import File, open_bytes

SEPARATORS = {".tsv": "\t", ".inter": "\t", ".psv": "|"}
MARKS = ("\t", ";", "|", "::", ",")
"""What divides fields where the extension does not say it: the one that divides most, or a space
where there is none of them, else ","."""
BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
BLOCK = 1 << 20
NOT_UTF8 = "is not UTF-8 text: name its encoding, as encoding='latin-1' (--encoding latin-1)"


class EmptyFile(DataError):
    """A file in which nothing stands, not even names of columns."""

    def __init__(self, file: File) -> None:
        super().__init__(f"{file.name} is empty: it has no columns and no events.")


@dataclass(frozen=True)
class Dialect:
    """How a text file divides its fields.

    Attributes
    ----------
    separator : between fields.
    header : names of the columns.
    skip : lines before the first row.
    """

    separator: str
    header: tuple[str, ...]
    skip: int


def find_dialect(file: File, encoding: str | None, columns: Sequence[str]) -> Dialect:
    """The dialect of a file, by its extension and first line.

    Parameters
    ----------
    file : File
    encoding : of the text; None: UTF-8, or what its first bytes say.
    columns : names of the columns of a file without a header line; () where it has one.
    """
    with open_text(file, encoding) as text:
        start = text.readline()
        if not start.strip() and not text.read(BLOCK).strip():
            raise EmptyFile(file)
        separator = SEPARATORS.get(file.extension) or _separator(start)
        text.seek(0)
        try:
            first = next(csv.reader(text, delimiter=separator[0]), [])
        except csv.Error as error:
            raise DataError(f"{file.name}, line 1 cannot be read ({first_line(error)}).") from None
    if len(separator) > 1:
        first = start.rstrip("\r\n").split(separator)
    if columns:
        if len(first) != len(columns):
            raise UsageError(
                f"{file.name} has {len(first)} fields in its first line, and {len(columns)} "
                f"columns are named ({listed(columns)}): name every column, in order."
            )
        return Dialect(separator, tuple(columns), 0)
    if "\0" in start:
        raise DataError(
            f"{file.name} is no text that can be read: its first line has characters that no text "
            "has. Name its encoding, for example encoding='utf-16-le' (--encoding utf-16-le), or "
            "rename the file if it is of another kind."
        )
    # Columns without a name, as a spreadsheet's empty ones, get one that no other has.
    header = [name.strip() or f"column {place}" for place, name in enumerate(first, 1)]
    if file.extension == ".inter":
        header = [name.rsplit(":", 1)[0] for name in header]
    if not any(name.strip() for name in first):
        raise DataError(f"{file.name}: the first line is blank; it should name the columns.")
    if all(is_number(name) for name in header):
        raise DataError(
            f"{file.name}: the first line ({start.strip()[:60]}) looks like data, not like column "
            "names. Put a header line in front, or name the columns in order with "
            "header= (--columns user,item,time)."
        )
    return Dialect(separator, tuple(header), 1)


def _separator(line: str) -> str:
    best = max(MARKS, key=line.count)
    if not line.count(best) and " " in line.strip():
        return " "
    return best if line.count(best) > line.count(",") else ","


def is_number(text: str) -> bool:
    """Whether text spells a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def encoding_of(file: File) -> str:
    """What a file's first bytes say of its encoding: UTF-8, with or without a mark, or UTF-16."""
    start = _head(file, 4)
    return next((name for mark, name in BOMS.items() if start.startswith(mark)), "utf-8")


def encoding_to_read(file: File, stated: str | None) -> str:
    """A file's encoding, as stated or by its first bytes: "utf-8" with or without a mark."""
    found = (stated or encoding_of(file)).lower().replace("_", "-")
    return "utf-8" if found in ("utf8", "utf-8-sig") else found


def _head(file: File, size: int) -> bytes:
    """The first bytes of a file, unpacked."""
    try:
        with open_bytes(file) as raw:
            return raw.read(size)
    except (OSError, pa.ArrowException) as error:
        raise damaged(file, error) from error


def damaged(file: File, error: BaseException) -> LongrecError:
    """The error for a file that cannot be unpacked, or for a full disk on the way."""
    return unreadable(file.name, error, "it is truncated or damaged. Copy or export it again")


def open_text(file: File, encoding: str | None) -> IO[str]:
    """A file's text, unpacked, without its mark of the encoding; it can go back to its start."""
    encoding = encoding or encoding_of(file)
    encoding = "utf-8-sig" if encoding == "utf-8" else encoding
    if not file.packing:
        return open(file.path, encoding=encoding, newline="", errors="replace")
    # The start alone: for the dialect, and for no more.
    head = _head(file, BLOCK)
    return io.StringIO(head.decode(encoding, errors="replace"), newline="")


def check_whole(file: File) -> None:
    """Read a packed file to its end: the engine does not look at gzip's own checksum."""
    try:
        with open_bytes(file) as raw:
            while raw.read(BLOCK):
                pass
    except (OSError, pa.ArrowException) as error:
        raise damaged(file, error) from error


def piece_ends(file: File, size: int) -> list[int]:
    """Where a file that is not packed can be cut into pieces of some bytes each: behind line ends,
    and at its end."""
    ends, whole = list[int](), file.path.stat().st_size
    with file.path.open("rb") as raw:
        for place in range(size, whole, size):
            if ends and place <= ends[-1]:
                continue
            raw.seek(place - 1)
            whole_line = raw.readline(size).endswith(b"\n")
            end = raw.tell()
            # A mark of UTF-8 inside of a file would be one at the beginning of a piece.
            marked = raw.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8
            if whole_line and not marked and end < whole:
                ends.append(end)
    return [*ends, whole]


def copy_piece(file: File, span: tuple[int, int], path: Path) -> None:
    """Write some bytes of a file, from a place to another."""
    begin, end = span
    with file.path.open("rb") as raw, path.open("wb") as out:
        raw.seek(begin)
        while begin < end and (block := raw.read(min(BLOCK, end - begin))):
            out.write(block)
            begin += len(block)


def as_plain_text(file: File, encoding: str, path: Path, even: bool) -> None:
    """Write a file as UTF-8 for the engine, which knows neither bz2 nor UTF-16.

    even : let all lines end in one way.

    Raises
    ------
    DataError
        When a byte is not of that encoding, or the packing is damaged; with the line.
    """
    # Lines that are no UTF-8 are told one by one later.
    errors = "surrogateescape" if encoding == "utf-8" else "strict"
    name = "utf-8-sig" if encoding == "utf-8" else encoding
    decoder: Any = codecs.getincrementaldecoder(name)(errors)
    if even:
        decoder = io.IncrementalNewlineDecoder(decoder, translate=True)
    lines = 1
    try:
        with open_bytes(file) as raw, path.open("wb") as out:
            while block := raw.read(BLOCK):
                text = decoder.decode(block)
                lines += text.count("\n")
                out.write(text.encode(errors=errors))
            out.write(decoder.decode(b"", final=True).encode(errors=errors))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file.name}, about line {lines}: not {encoding} text ({first_line(error)}). Name its "
            "encoding, for example encoding='latin-1' (--encoding latin-1)."
        ) from error
    except (OSError, pa.ArrowException) as error:
        raise damaged(file, error) from error


def _lines(file: File, errors: str) -> IO[str]:
    """A file of UTF-8, unpacked, whose lines keep their ends."""
    return io.TextIOWrapper(open_bytes(file), encoding="utf-8-sig", newline="", errors=errors)


def rows_as_csv_has_them(file: File, dialect: Dialect) -> Iterator[tuple[int, list[str], str]]:
    """Rows with their first line's number, and what is wrong with a row or "".

    For files with quote marks inside of fields that the engine refuses: a quote mark counts where a
    field begins with it, and text after its end belongs to the field. A field that goes over the
    end of its line is refused here: it is rather a quote mark that nothing closes.
    """
    width = len(dialect.header)
    with _lines(file, "surrogateescape") as text_file:
        lines = islice(text_file, dialect.skip, None)
        for number, line in enumerate(lines, dialect.skip + 1):
            text = line.rstrip("\r\n")
            if not text:
                continue
            try:
                text.encode()
            except UnicodeEncodeError:
                yield number, [text.encode(errors="replace").decode()], NOT_UTF8
                continue
            if len(dialect.separator) > 1:
                fields = text.split(dialect.separator)
            else:
                try:
                    fields = next(csv.reader([text], delimiter=dialect.separator))
                except csv.Error as error:
                    yield number, [text], f"cannot be read ({first_line(error)})"
                    continue
            wrong = (
                ""
                if len(fields) == width
                else f"has {len(fields)} fields, the header names {width}"
            )
            yield number, fields if not wrong else [text], wrong


def lines_of_rows(
    file: File, dialect: Dialect | None, goes_on: bool, without: Collection[int]
) -> Iterator[int]:
    """The line on which each row begins; for errors alone, since it reads all of them.

    Parameters
    ----------
    file : as the engine read it.
    dialect : None: of a file of JSON lines.
    goes_on : whether a row may go on over the end of its line, inside of quote marks.
    without : lines that are no rows.
    """
    with _lines(file, "replace") as text:
        skip = 0 if dialect is None else dialect.skip
        if dialect is not None and goes_on and len(dialect.separator) == 1:
            lines = _beginnings(csv.reader(text, delimiter=dialect.separator))
        else:
            blank = "\r\n" if dialect is not None else " \t\r\n"
            lines = (number for number, line in enumerate(text, 1) if line.strip(blank))
        yield from (line for line in islice(lines, skip, None) if line not in without)


def _beginnings(rows: Any) -> Iterator[int]:
    """Where each row of a csv reader begins that has fields."""
    begins = 1
    for fields in rows:
        if fields:
            yield begins
        begins = rows.line_num + 1
