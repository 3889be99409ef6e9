"""Files of a folder that are all replaced at one instant, while other files beside them stay.

A document in the folder has the SHA-256 of each file. New files are written into a hidden folder
beside the old ones; then the new document takes the old one's name, and from that instant on the
new files count. Only after it they move to their places. So a file is looked for in its place and,
if its digest is not what the document says, where it was written. A process that is killed before
that instant leaves the old files whole, one killed after it the new ones, and the next writer
tidies up.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import mkdtemp

from longrec.core.files import digest_of_file, sync


def stage(folder: Path, document: str) -> Path:
    """A new hidden folder for files that a document is going to describe."""
    made = Path(mkdtemp(prefix=_prefix(document), dir=folder))
    shutil.copymode(folder, made)  # whoever may read the folder may read what is new in it
    return made


def staged(folder: Path, document: str) -> list[Path]:
    """Hidden folders that were made for files of a document."""
    return sorted(folder.glob(f"{_prefix(document)}*"))


def locate(folder: Path, document: str, name: str, digest: str | None) -> Path | None:
    """Where the file that a document describes stands; None where no file has that digest."""
    for place in (folder, *staged(folder, document)):
        path = place / name
        try:
            # No pipe, which would be waited for, and no device, which may never end.
            if path.is_file() and digest_of_file(path) == digest:
                return path
        except OSError:  # missing, or moved just now
            continue
    return None


def settle(folder: Path, document: str, digests: Mapping[str, str]) -> None:
    """Move files that a document describes to their places, and remove what it does not.

    It is for the one process that may write to the folder; done again, it does nothing.
    """
    for place in staged(folder, document):
        for name, digest in digests.items():
            path = place / name
            if path.is_file() and digest_of_file(path) == digest:
                sync(path)  # of a writer that was killed: it takes the place of one that is safe
                os.replace(path, folder / name)
        sync(folder)
        shutil.rmtree(place)


def _prefix(document: str) -> str:
    return f".{document}.new-"
