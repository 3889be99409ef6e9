"""Where events come from: files, folders, globs, frames and Arrow streams, as lazy frames.

A source becomes one or more `Part`s, each with the name that errors use. Text files (CSV, TSV,
RecBole's .inter) are read as text: which columns are numbers is decided later over the whole log,
never guessed from its first rows.
"""

from __future__ import annotations

import csv
import glob
import gzip
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import polars as pl

from longrec.core.errors import DataError, UsageError, first_line

SEPARATORS = {".csv": ",", ".tsv": "\t", ".inter": "\t"}
PARQUET = (".parquet", ".pq")
KNOWN = (*SEPARATORS, *PARQUET, ".csv.gz", ".tsv.gz", ".inter.gz")
# A panic inside the engine is not an Exception of Python's; a damaged file can cause one.
ENGINE_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)


@dataclass(frozen=True, eq=False)
class Part:
    """One file or frame of a log.

    Attributes
    ----------
    name
        what errors call it.
    frame
        its rows, lazily, with its own column names.
    schema
        its columns and types, in order.
    text
        whether every column is text because the format has no types.
    path, separator
        the file and its field separator, for text files.
    """

    name: str
    frame: pl.LazyFrame
    schema: dict[str, pl.DataType]
    text: bool = False
    path: Path | None = None
    separator: str = ","


def open_source(source: Any) -> list[Part]:
    """Parts of a path, list of paths, glob, folder, frame or Arrow stream, in a fixed order.

    A part is taken as it is.

    Raises
    ------
    DataError
        when there is no such file, or it is empty, damaged or has two columns of one name.
    UsageError
        when this is no kind of source that can be read.
    """
    if isinstance(source, Part):
        return [source]
    if isinstance(source, pl.LazyFrame | pl.DataFrame):
        frame = source.lazy()
        return [Part("the polars frame", frame, dict(frame.collect_schema()))]
    if isinstance(source, str | Path):
        return [_open_file(path) for path in _expand(str(source))]
    if isinstance(source, list | tuple) and all(isinstance(one, str | Path) for one in source):
        if not source:
            raise UsageError("An empty list of files was given. Name at least one.")
        return [_open_file(path) for one in source for path in _expand(str(one))]
    if type(source).__module__.split(".")[0] == "pandas" and hasattr(source, "columns"):
        return [_open_pandas(source)]
    if hasattr(source, "__arrow_c_stream__"):
        return [_open_arrow(source)]
    raise UsageError(
        f"Events cannot be read from {type(source).__name__}. Give a file, a list of files, a "
        "glob, a folder, a Polars or pandas frame, or an Arrow table or stream."
    )


def kind_of(path: Path) -> str:
    """The extension that says how to read a file, without its packing: ".csv" for "log.csv.gz"."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    kind = suffixes[-1] if suffixes else ""
    return kind if kind in SEPARATORS or kind in PARQUET else ""


def _expand(pattern: str) -> list[Path]:
    """Files of a path, folder or glob, sorted, so that the order never depends on the disk."""
    path = Path(pattern).expanduser()
    if path.is_dir():
        inside = [file for file in sorted(path.rglob("*")) if file.is_file()]
        # Hidden files and those with an underscore are marks of other tools (_SUCCESS, .crc).
        hidden = [f for f in inside if any(p[0] in "._" for p in f.relative_to(path).parts)]
        files = [f for f in inside if f not in set(hidden) and kind_of(f)]
        if not files:
            raise DataError(f"{path}: no file in this folder is one of {', '.join(KNOWN)}.")
        kinds = Counter("Parquet" if kind_of(f) in PARQUET else "text" for f in files)
        if len(kinds) > 1:
            raise DataError(
                f"{path} holds Parquet and text files ({files[0].name}, {files[-1].name}, …). "
                "Name the log's files, for example with a glob."
            )
        return files
    if path.exists():
        return [path]
    if any(mark in pattern for mark in "*?["):
        files = sorted(Path(name) for name in glob.glob(str(path), recursive=True))
        files = [file for file in files if file.is_file()]
        if not files:
            raise DataError(f"{pattern}: no file matches.")
        return files
    raise DataError(f"{pattern}: no such file or folder.")


def _open_file(path: Path) -> Part:
    kind = kind_of(path)
    if not kind:
        raise DataError(
            f"{path}: the extension {path.suffix or '(none)'} is not known. Longrec reads "
            f"{', '.join(KNOWN)}; rename the file if it is one of these."
        )
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty: there are no events in it.")
    try:
        return _open_parquet(path) if kind in PARQUET else _open_text(path, kind)
    except (UnicodeDecodeError, EOFError, zlib.error, csv.Error, *ENGINE_ERRORS) as error:
        raise unreadable(str(path), error) from error


def unreadable(name: str, error: BaseException) -> DataError:
    """The error for a file that the engine could not read."""
    if isinstance(error, pl.exceptions.NoDataError):
        return DataError(f"{name} is empty: it has columns but no events.")
    if name.lower().endswith(PARQUET):
        hint = "it is truncated, damaged or not Parquet. Copy or export it again"
    elif "utf" in str(error).lower():
        hint = "it is not UTF-8 text. Save it as UTF-8"
    else:
        hint = "mend the file or export it again"
    return DataError(f"{name} cannot be read ({first_line(error)}): {hint}.")


def _open_parquet(path: Path) -> Part:
    frame = pl.scan_parquet(path, glob=False, hive_partitioning=False)
    return Part(str(path), frame, dict(frame.collect_schema()), path=path)


def _open_text(path: Path, kind: str) -> Part:
    with open_text(path) as file:
        # The header alone, and as csv reads it: a quoted name may hold the separator.
        start = file.readline()
        separator = SEPARATORS[kind]
        if kind == ".csv" and "," not in start:
            separator = next((mark for mark in "\t;|" if mark in start), ",")
        file.seek(0)
        header = [name.strip() for name in next(csv.reader(file, delimiter=separator), [])]
    if kind == ".inter":
        header = [name.rsplit(":", 1)[0] for name in header]
    if not any(header):
        raise DataError(f"{path}: the first line is blank; it should name the columns.")
    refuse_twins(str(path), header)
    if all(is_number(name) for name in header):
        raise DataError(
            f"{path}: the first line ({start.strip()[:60]}) looks like data, not like column "
            "names. Put a header line in front, for example user_id,item_id,timestamp."
        )
    schema: dict[str, pl.DataType] = {name: pl.String() for name in header}
    # The header is skipped, not read again: its names are ours (stripped, without types).
    frame = pl.scan_csv(
        path, separator=separator, schema=schema, has_header=False, skip_rows=1, glob=False
    )
    return Part(str(path), frame, schema, text=True, path=path, separator=separator)


def open_text(path: Path) -> IO[str]:
    """Open a text file, packed or not, without its byte order mark."""
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return open(path, encoding="utf-8-sig", newline="")


def _open_pandas(frame: Any) -> Part:
    names = [str(name) for name in frame.columns]
    refuse_twins("the pandas frame", names)
    columns = {}
    for name, column in zip(names, (frame.iloc[:, i] for i in range(len(names))), strict=True):
        if column.dtype == object:
            refuse_mixed(name, column)
        try:
            columns[name] = pl.Series(name, pl.from_pandas(column))
        except Exception as error:  # Arrow and Polars raise many kinds for foreign objects
            columns[name] = pl.Series(name, [None] * len(frame), dtype=pl.Object)
            if not isinstance(error, (TypeError, ValueError, *ENGINE_ERRORS)):
                raise
    lazy = pl.DataFrame(columns).lazy()
    return Part("the pandas frame", lazy, dict(lazy.collect_schema()))


def refuse_mixed(name: str, column: Any) -> None:
    """Raise DataError when an object column of pandas holds values of more than one type."""
    types = column[column.notna()].map(type)
    if types.nunique() > 1:
        first = types.iloc[0]
        row = int((column.notna() & (column.map(type) != first)).to_numpy().argmax())
        value = column.iloc[row]
        raise DataError(
            f"the pandas frame, column {name!r}, row {row + 1}: {value!r} is of type "
            f"{type(value).__name__}, the rows before are {first.__name__}: mixed types. Convert "
            f"the column, for example frame[{name!r}] = frame[{name!r}].astype(str)."
        )


def _open_arrow(source: Any) -> Part:
    schema = getattr(source, "schema", None)
    if schema is not None and hasattr(schema, "names"):
        refuse_twins("the Arrow stream", list(schema.names))
    try:
        frame = pl.DataFrame(source)
    except (TypeError, ValueError, *ENGINE_ERRORS) as error:
        raise DataError(f"The Arrow stream cannot be read ({first_line(error)}).") from error
    return Part("the Arrow stream", frame.lazy(), dict(frame.schema))


def refuse_twins(name: str, columns: Iterable[str]) -> None:
    """Raise DataError when two columns share a name."""
    twins = [column for column, count in Counter(columns).items() if count > 1]
    if twins:
        raise DataError(f"{name}: two columns are called {twins[0]!r}. Rename or drop one.")


def is_number(text: str) -> bool:
    """Whether text spells a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def first_ragged_line(part: Part) -> str | None:
    """Where a text file's first line with too many fields is; for errors only, it reads rows."""
    if part.path is None or not part.text:
        return None
    width = len(part.schema)
    with open_text(part.path) as file:
        rows = csv.reader(file, delimiter=part.separator)
        try:
            for row in rows:
                if len(row) > width:
                    return f"line {rows.line_num} has {len(row)} fields, the header names {width}"
        except (csv.Error, UnicodeDecodeError) as error:
            return f"line {rows.line_num + 1}: {first_line(error)}"
    return None
