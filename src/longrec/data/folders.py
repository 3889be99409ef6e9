"""Folders that appear whole or not at all: written beside their place, then renamed."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from longrec.core.errors import DataError, UsageError
from longrec.core.files import sync
from longrec.data.catalog import first_line


@contextmanager
def writing_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place when the block ends without error."""
    refuse_existing(path, overwrite=overwrite)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
        temporary.chmod(0o777 & ~_umask())
        yield temporary
        for file in temporary.iterdir():
            sync(file)
        sync(temporary)
        refuse_existing(path, overwrite=overwrite)  # somebody may have made it meanwhile
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
            os.replace(path, old / "histories")
            try:
                os.replace(temporary, path)
            except OSError:
                os.replace(old / "histories", path)
                raise
            finally:
                shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            reason = (
                "no space left, or larger than files may be here; free space or use another disk"
            )
        else:
            reason = first_line(error)
        raise DataError(f"{path} was not written: {reason}. Nothing was left behind.") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Raise UsageError unless `path` is free, empty, or histories that may be replaced."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    is_histories = (path / "meta.json").is_file() and (path / "events.arrow").is_file()
    if not is_histories:
        raise UsageError(
            f"{path} exists and is not a histories folder: it is left alone. Name another folder."
        )
    if not overwrite:
        raise UsageError(
            f"{path} exists. Name another folder, or allow it to be replaced with overwrite=True "
            "(--overwrite)."
        )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
