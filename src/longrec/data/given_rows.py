"""Rows of small files that callers bring along: lists of ids, and histories, as CSV or JSONL.

A file is a path, or an open file such as standard input. All rows that cannot be used are told
together, each with its line, what is wrong and the mend; nothing is done then.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from math import isfinite
from pathlib import Path
from typing import IO, Any, NamedTuple

from longrec.core.arguments import described
from longrec.core.errors import DataError
from longrec.core.format import listed
from longrec.data.columns import NAMES, plain_name
from longrec.data.frames import is_parquet, read_parquet
from longrec.data.text_files import BOMS

SHOWN = 3
"""Rows that cannot be used, of which each is named."""
JSON_ENDINGS = (".jsonl", ".ndjson", ".json")
RECBOLE = (".item", ".user", ".inter")
"""Endings of RecBole's files, whose columns are called as in item_id:token."""
OF_ALL = {"exclude", "among", "where", "k"}
"""What a row of JSON cannot have of its own; other fields and columns are not read."""
FORMS = {
    "user": 'an id per line, a CSV with a column user, or JSON lines such as {"user": 42}',
    "item": 'an id per line, a CSV with a column item, or JSON lines such as {"item": "sku-4"}',
}


class NotUtf8(DataError):
    """A file's text is in another encoding."""


class Row(NamedTuple):
    """Where a row stands, "line 3" for instance, and what is there."""

    place: str
    value: Any


class Problems:
    """Rows that cannot be used, told together at the end.

    Parameters
    ----------
    name : of the file or frame.

    Attributes
    ----------
    rows : how many were read; whoever reads them counts.
    """

    def __init__(self, name: str) -> None:
        self.name, self.rows, self._told, self._count = name, 0, list[str](), 0

    def add(self, place: str, words: str) -> None:
        """Remember one."""
        self._count += 1
        if self._count <= SHOWN:
            self._told.append(f"{place}: {words}")

    def check_id(self, place: str, field: str, value: Any) -> bool:
        """Whether a value may be an id: text, or a number; or else it is remembered."""
        fits = isinstance(value, str | int | float | bytes) and not isinstance(value, bool)
        if isinstance(value, float) and not isfinite(value):
            fits = False
        if fits and value != "":
            return True
        what = "empty" if value == "" else "missing" if value is None else described(value)
        self.add(place, f"{field} is {what}; give an id, text or a number")
        return False

    def raise_if_any(self) -> None:
        """Raise DataError if there were some."""
        if self._count:
            more = f"; and {self._count - SHOWN:,} more" if self._count > SHOWN else ""
            raise DataError(
                f"{self.name}: {self._count:,} of {self.rows:,} rows cannot be used. "
                f"{'; '.join(self._told)}{more}"
            )


def is_file(given: Any) -> bool:
    """Whether something is a path or an open file; text may be an id, and is none."""
    return isinstance(given, os.PathLike) or hasattr(given, "readline")


def read_ids(source: Any, role: str, stated: str | None = None) -> list[Any]:
    """The ids of a file, in its order, as text or as JSON has them.

    Parameters
    ----------
    source : path or open file
        An id per line, a CSV or Parquet with a column of them (others are not read), or JSON
        lines, each an id or an object; text may be packed by gzip.
    role : {"user", "item"}
        Which ids they are.
    stated : str or None
        What their column may be called beside the names that are recognised.

    Raises
    ------
    DataError
        When the file cannot be read, has no such column, or a row has no id.
    """
    if is_parquet(source):
        frame = read_parquet(source)
        name = find_name(frame.columns, role, stated)
        if name is None:
            raise DataError(_no_column(str(source), frame.columns, role))
        return frame[name].to_list()
    found: list[Any] = []
    with opened(source) as (name, file):
        problems = Problems(name)
        for place, value in read_rows(file, role, problems, True, stated):
            if isinstance(value, Mapping):
                key, odd = find_name(value, role, stated), sorted(OF_ALL & value.keys())
                if odd:
                    problems.add(place, f"has {odd[0]!r}, which holds for all: give it apart")
                    continue
                if key is None:
                    problems.add(place, f"has no {role}; give {FORMS[role]}")
                    continue
                value = value[key]
            if problems.check_id(place, role, value):
                found.append(value)
        problems.raise_if_any()
    return found


@contextmanager
def opened(source: Any, encoding: str = "utf-8-sig") -> Iterator[tuple[str, IO[str]]]:
    """The name of a file, and its text.

    Raises
    ------
    DataError
        When there is no such file; `NotUtf8` when it is no text of that encoding.
    """
    file: AbstractContextManager[IO[str]]
    if hasattr(source, "readline"):
        name = str(getattr(source, "name", None) or "the file")
        name, file = name.replace("<stdin>", "standard input"), nullcontext(source)
    else:
        name = str(source)
        path = Path(source).expanduser()
        unpacked: Any = gzip.open if path.suffix == ".gz" else open
        try:
            with unpacked(path, "rb") as raw:
                encoding = BOMS.get(raw.read(2), encoding)
            file = unpacked(path, "rt", encoding=encoding, newline="")
        except (EOFError, OSError) as error:
            raise DataError(f"{name}: {getattr(error, 'strerror', None) or error}") from error
    with file as text:
        try:
            yield name, text
        except UnicodeDecodeError as error:
            raise NotUtf8(f"{name}: it is not UTF-8 text; save it as UTF-8") from error
        except (EOFError, OSError, zlib.error) as error:
            raise DataError(f"{name}: it is cut off or damaged ({error}); copy it again") from error


def read_rows(
    file: IO[str],
    role: str,
    problems: Problems,
    one_column: bool = False,
    stated: str | None = None,
) -> Iterator[Row]:
    """The rows of a text, JSON lines or CSV: which of both is told by its name or first character.

    Parameters
    ----------
    file : IO
    role : {"user", "item"}
        Which column a CSV must have.
    problems : Problems
        Where rows are counted, and those of a CSV that have too many or too few fields told.
    one_column : bool
        Whether it may be one column without a name; its rows are then text rather than mappings.
    stated : str or None
        What that column may be called beside the names that are recognised.
    """
    name, lines = problems.name, iter(file)
    first = next((line for line in lines if line.strip()), None)
    if first is None:
        raise DataError(f"{name} is empty; give {FORMS[role]}")
    if not isinstance(first, str):
        raise DataError(f"{name} is open for bytes: open it for text")
    first = first.removeprefix("\ufeff")
    lines = chain([first], lines)
    if name.lower().removesuffix(".gz").endswith(JSON_ENDINGS) or first.lstrip()[0] in "{[":
        return _json_rows(problems, lines)
    return _csv_rows(problems, lines, first, role, one_column, stated)


def find_name(names: Any, role: str, stated: str | None = None) -> str | None:
    """Which of some names is that of user, item or time.

    That is the one that is `stated`, if it is there, or the word itself, or as `prepare` does.
    """
    plain = {plain_name(str(name)): name for name in reversed(list(names))}
    known = (*([] if stated is None else [stated]), role, *NAMES.get(role, "").split())
    return next((plain[plain_name(word)] for word in known if plain_name(word) in plain), None)


def _no_column(name: str, columns: Sequence[str], role: str) -> str:
    return (
        f"{name}: no column looks like the {role} ids; the columns are {listed(columns)}. Call "
        f"one {role}"
    )


def _json_rows(problems: Problems, lines: Iterator[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        problems.rows += 1
        try:
            yield Row(f"line {number}", json.loads(line, parse_float=_number))
        except (ValueError, RecursionError) as error:
            whole = " (a file of one document: write one row per line)" if number == 1 else ""
            raise DataError(
                f"{problems.name}, line {number}: {line.strip()[:60]!r} is no JSON: {error}{whole}"
            ) from None


def _number(text: str) -> int | float:
    """A number of JSON; 42.0 is 42, as whoever writes ids among gaps has them."""
    number = float(text)
    return int(number) if number.is_integer() else number


def _csv_rows(
    problems: Problems,
    lines: Iterator[str],
    first: str,
    role: str,
    one_column: bool,
    stated: str | None,
) -> Iterator[Row]:
    name, begin = problems.name, 1
    tab, semicolon = "\t" in first, ";" in first and "," not in first
    delimiter = "\t" if tab or name.endswith((".tsv", *RECBOLE)) else ";" if semicolon else ","
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    head: Sequence[str] | None = None
    try:
        for row in reader:
            place, begin = f"line {begin}", reader.line_num + 1
            if not row:
                continue
            problems.rows += 1
            begins = head is None and problems.rows == 1
            if begins and name.endswith(RECBOLE):
                row = [column.rpartition(":")[0] or column for column in row]
            if begins and (find_name(row, role, stated) is not None or not one_column):
                head, problems.rows = row, 0
                if find_name(head, role, stated) is None:
                    raise DataError(_no_column(name, head, role))
                twice = {column for column in head if head.count(column) > 1}
                if twice:
                    raise DataError(f"{name}: the column {min(twice)!r} is there twice")
            elif head is not None:
                if len(row) == len(head):
                    yield Row(place, dict(zip(head, row, strict=True)))
                else:
                    words = f"has {len(row)} fields, and the first line {len(head)}"
                    problems.add(place, f"{words}; quote a field that has {delimiter!r} in it")
            elif len(row) == 1:
                yield Row(place, row[0])
            else:
                problems.add(place, f"has {len(row)} fields; give {FORMS[role]}")
    except csv.Error as error:
        raise DataError(
            f"{name}, line {begin}: {error}; write a quote mark inside quotes twice"
        ) from None
