"""Files and folders that appear whole or not at all, and digests that find damage in them."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from longrec.core.errors import DataError, UsageError, first_line
from longrec.core.rights import umask
from longrec.core.work_folder import WorkFolder

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Numbers of errors of a disk that is full, for us or for everybody, or takes no larger file."""


def disk_full(error: BaseException) -> str | None:
    """That a disk is full, in a line that names the file if that is known; None: it is not that.

    Libraries raise errors of their own for it, which have the system's words in their message.
    """
    found: BaseException | None = error
    while found is not None:
        of_system = isinstance(found, OSError) and found.errno in FULL
        words = next((w for w in map(os.strerror, FULL) if w.lower() in str(found).lower()), None)
        if of_system or words is not None:
            name = getattr(found, "filename", None)
            place = f"{name}: " if isinstance(name, str) else ""
            return f"{place}the disk is full ({words or first_line(found)})"
        shown = None if found.__suppress_context__ else found.__context__
        found = found.__cause__ or shown
    return None


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let errors of what is written name the file: those of a write itself do not."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def write_file(path: Path, data: bytes | str) -> None:
    """Write beside the file's place, sync, rename; text as UTF-8. A failure leaves nothing.

    What a link points to is replaced, and not the link. What is no file, such as a device or a
    pipe, is written into: renaming would put a file in its place.
    """
    content = data.encode() if isinstance(data, str) else data
    if path.exists() and not path.is_file():
        with naming(path):
            path.write_bytes(content)
        return
    path = path.resolve() if path.is_symlink() else path
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with naming(path):
            temporary.write_bytes(content)
            if path.exists():
                shutil.copymode(path, temporary)
            sync(temporary)
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Bring a file's content, or a folder's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_names(path: Path) -> None:
    """Bring the names of a file or a folder, and of all folders above it, to the disk.

    What is on the disk in a folder is lost in a power cut if the folder's own name is not there.
    """
    for number, folder in enumerate(path.resolve().parents):
        try:
            sync(folder)
        except OSError as error:  # some folders above may not be read, or are of no disk
            if not number and not isinstance(error, PermissionError):
                raise


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of_config(config: Mapping[str, Any]) -> str:
    """SHA-256 of a config without its own digest, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def is_free(path: Path) -> bool:
    """Whether nothing stands at a path but perhaps an empty folder."""
    return not path.exists() or (path.is_dir() and not any(path.iterdir()))


@contextmanager
def writing_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place when the block ends without error.

    Parameters
    ----------
    path : Path
    overwrite : bool
        Whether it may replace what stands there; the caller knows what that is.

    Raises
    ------
    UsageError
        When something stands there that may not be replaced.
    DataError
        When the folder cannot be written; nothing is left behind then.
    """
    _check_free(path, overwrite)
    work: WorkFolder | None = None
    try:
        work = WorkFolder(path)
        temporary = work.path
        temporary.chmod(0o777 & ~umask())
        yield temporary
        for file in temporary.iterdir():
            sync(file)
        sync(temporary)
        _check_free(path, overwrite)  # somebody may have made it meanwhile
        _move_into_place(temporary, path)
        sync_names(path)
    except Exception as error:
        full = disk_full(error)
        if full is None and not isinstance(error, OSError):
            raise
        reason = (
            first_line(error) if full is None else f"{full}; free space on it, or use another one"
        )
        raise DataError(f"{path} was not written: {reason}. Nothing was left behind.") from error
    finally:
        if work is not None:
            work.close()


def _check_free(path: Path, overwrite: bool) -> None:
    if not overwrite and not is_free(path):
        raise UsageError(f"{path} exists: it is left alone. Name another folder.")


def _move_into_place(new: Path, path: Path) -> None:
    """Give a folder the name `path`; what stood there goes once the new one is in place."""
    if not path.exists():
        os.replace(new, path)
    elif not _exchange(new, path):  # else `new` is the old folder now, which the caller removes
        _replace_in_two_steps(new, path)


def _exchange(a: Path, b: Path) -> bool:
    """Let two folders change names at one instant; False where the system cannot.

    With two renames a process that is killed between them would leave nothing at the place.
    """
    names = os.fsencode(a), os.fsencode(b)
    try:
        if sys.platform == "linux":
            here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
            failed = ctypes.CDLL(None).renameat2(here, names[0], here, names[1], swap)
        elif sys.platform == "darwin":
            failed = ctypes.CDLL(None).renamex_np(*names, 2)  # RENAME_SWAP
        else:
            return False
    except (OSError, AttributeError):  # a system of before 2018
        return False
    return not failed


def _replace_in_two_steps(new: Path, path: Path) -> None:
    """The same on file systems and systems that cannot exchange names."""
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
    os.replace(path, aside / "old")
    try:
        os.replace(new, path)
    except OSError:
        os.replace(aside / "old", path)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
