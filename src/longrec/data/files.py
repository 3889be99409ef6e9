"""Which files a log is made of: paths, folders and globs, what each file is, and what is left out.

What a file is, its name says; how it is packed, its first bytes say, since names of packings lie.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO
from urllib.parse import unquote

import pyarrow as pa

from longrec.core.arguments import NO_UTF8, is_utf8, without_passwords
from longrec.core.errors import DataError
from longrec.core.format import listed
from longrec.data.object_store import copy_log

TEXT = (".csv", ".tsv", ".inter", ".txt", ".dat", ".data", ".psv")
JSON_LINES = (".jsonl", ".ndjson")
PARQUET = (".parquet", ".pq")
KNOWN = (*TEXT, *JSON_LINES, *PARQUET)
PACKINGS: Mapping[bytes, str] = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bz2",
}
"""First bytes of packed files."""
PACKED = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd", ".bz2": "bz2"}
"""Last extensions that say nothing of what a file holds."""
_PART_OF_A_JOB = re.compile(r"part-[0-9-]+[^.]*")
_EMPTY_PARTITION = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class File:
    """A file of a log.

    Attributes
    ----------
    path : Path
    kind : "text", "jsonl" or "parquet".
    packing : "gzip", "zstd", "bz2", or "" for none.
    partition : columns that the folders above it name, as "date=2024-01-30" does.
    searched : whether it was found in a folder, and not named by itself.
    origin : its address, of a file that was copied from an object store.
    """

    path: Path
    kind: str
    packing: str = ""
    partition: Mapping[str, str | None] = field(default_factory=dict)
    searched: bool = False
    origin: str = ""

    @property
    def name(self) -> str:
        """What errors call it."""
        return self.origin or str(self.path)

    @property
    def extension(self) -> str:
        """The extension that says what it holds, ".csv" for "log.csv.gz"; may be ""."""
        return _unpacked(self.path).suffix.lower()

    @property
    def stem(self) -> Path:
        """The path without what says its form: "log.2024" of "log.2024.csv.gz"."""
        bare = _unpacked(self.path)
        return bare.with_suffix("") if bare.suffix.lower() in KNOWN else bare


def _unpacked(path: Path) -> Path:
    while path.suffix.lower() in PACKED:
        path = path.with_suffix("")
    return path


def open_bytes(file: File) -> IO[bytes]:
    """A file's bytes, unpacked."""
    if not file.packing:
        return file.path.open("rb")
    unpacked: IO[bytes] = pa.CompressedInputStream(pa.OSFile(str(file.path)), file.packing)
    return unpacked


def find_files(pattern: str, note: Callable[[str], None]) -> list[File]:
    """Files of a path, folder or glob, sorted, so that the order never depends on the disk.

    Parameters
    ----------
    pattern : str
    note : told what a folder holds that is not read.

    Raises
    ------
    DataError
        When there is no such file, or none that can be read.
    """
    path = Path(pattern).expanduser()
    try:
        if path.is_dir():
            return _in_folder(path, note)
        if path.exists():
            return [named(path)]
        if not any(mark in pattern for mark in "*?["):
            store = " Object stores are s3://… and gs://…." if "://" in pattern else ""
            raise DataError(f"{without_passwords(pattern)}: no such file or folder.{store}")
        found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
        if "**" in pattern:  # which finds the folders and what is in them
            found = [one for one in found if one.is_file()]
        if not found:
            raise DataError(f"{pattern}: no file matches.")
        return [
            file
            for one in found
            for file in (_in_folder(one, note) if one.is_dir() else [named(one)])
        ]
    except OSError as error:
        place = error.filename or path
        raise DataError(f"{place} cannot be read ({error.strerror}).") from error


def find_objects(address: str, folder: Path, note: Callable[[str], None]) -> list[File]:
    """The same of an address in an object store, whose objects are copied below a folder."""
    pattern, root = copy_log(address, folder)

    def shown(text: str) -> str:
        return text.replace(f"{root}/", f"{root.name}://")

    try:
        found = find_files(pattern, lambda line: note(shown(line)))
    except DataError as error:
        raise DataError(shown(str(error))) from None
    return [replace(file, origin=shown(str(file.path))) for file in found]


def in_order(files: Iterable[File], note: Callable[[str], None]) -> list[File]:
    """Files by their paths, in whatever order they were named, each once; day-9 before day-10."""
    found: dict[Path, File] = {}
    for file in files:
        if found.setdefault(file.path.resolve(), file) is not file:
            note(f"{file.name} is named twice and read once")
    return sorted(found.values(), key=lambda file: natural(file.name))


def natural(name: str) -> list[tuple[int, str]]:
    """A key by which numbers in names are sorted as numbers."""
    parts = re.split(r"(\d+)", name)
    return [(int(part) if part.isdecimal() else 0, part) for part in parts]


def named(path: Path) -> File:
    """A file that is named by itself; an unknown kind is a DataError."""
    kind = kind_of(path)
    if not kind:
        raise DataError(
            f"{path}: the extension {path.suffix or '(none)'} is not known. Files that can be read "
            f"are {', '.join(KNOWN)}, also packed ({', '.join(PACKED)})."
        )
    return _file(path, kind)


def _in_folder(folder: Path, note: Callable[[str], None]) -> list[File]:
    files, left = [], []
    for path in _walk(folder):
        kind = kind_of(path) if path.is_file() else ""
        if kind:
            files.append(replace(_file(path, kind), searched=True))
        else:
            left.append(path.relative_to(folder))
    if not files:
        raise DataError(
            f"{folder}: no file in this folder is one of {', '.join(KNOWN)}, packed or not."
        )
    twins: dict[Path, File] = {}
    for file in files:
        other = twins.setdefault(file.stem, file)
        if other is not file:
            raise DataError(
                f"{other.name} and {file.name} have one name and two forms, as if they were one "
                "log twice. Name the log's files, for example with a glob."
            )
    if left:
        note(f"{folder} holds files that are not read: {listed(left)}")
    return files


def _walk(folder: Path) -> list[Path]:
    """What is in a folder and those within, links followed, but for what other tools mark.

    Hidden files and those with an underscore are marks of other tools (_SUCCESS, .crc).
    """
    found, seen = [], {folder.resolve()}
    for top, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        here = Path(top)
        inside = {here / name: (here / name).resolve() for name in folders if _counts(name)}
        inside = {one: place for one, place in inside.items() if place not in seen}
        seen |= set(inside.values())
        folders[:] = [one.name for one in inside]
        found += [here / name for name in names if _counts(name)]
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error


def _counts(name: str) -> bool:
    return name[0] not in "._"


def kind_of(path: Path) -> str:
    """What a file is by its name, "" where that is not known; jobs write "part-00000" alone."""
    found = File(path, "").extension
    for kind, extensions in (("text", TEXT), ("jsonl", JSON_LINES), ("parquet", PARQUET)):
        if found in extensions:
            return kind
    if found == "" and _PART_OF_A_JOB.fullmatch(path.name.partition(".")[0]):
        return _kind_by_content(path)
    return ""


def _kind_by_content(path: Path) -> str:
    with open_bytes(File(path, "", _packing(path))) as file:
        start = file.read(64)
    if start.startswith(b"PAR1"):
        return "parquet"
    return "jsonl" if start.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{" else "text"


def _packing(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(8)
    found = next((name for mark, name in PACKINGS.items() if start.startswith(mark)), "")
    if not found and path.suffix.lower() in PACKED and start:
        raise DataError(
            f"{path} is not packed as its name says ({PACKED[path.suffix.lower()]}): it is "
            "damaged, or rename it."
        )
    return found


def _file(path: Path, kind: str) -> File:
    if not is_utf8(str(path)):
        raise DataError(f"{str(path)!r} has a name {NO_UTF8}: rename it.")
    packing = "" if kind == "parquet" else _packing(path)  # Parquet has its own inside
    return File(path, kind, packing, _partition(path))


def _partition(path: Path) -> dict[str, str | None]:
    """Columns that the names of folders give: "date=2024-01-30" is a column date."""
    found: dict[str, str | None] = {}
    for part in path.parts[:-1]:
        name, equals, value = part.partition("=")
        if equals and name:
            found[unquote(name)] = None if value == _EMPTY_PARTITION else unquote(value)
    return found
