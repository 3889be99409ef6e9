"""Sealed folders: of one kind and version, whole, and checked when they are read.

A sealed folder has one JSON document that says what stands beside it. It is written last, so that
a folder without it is none. Kinds with digests have in it the SHA-256 of every other file
("digests") and of the document itself ("digest"). What is missing, newer, edited or damaged is said
in the same words for every kind, with what to do about it.

Whatever replaces a folder, or the files of one, leaves the old whole until the new stands whole,
and whoever reads meanwhile reads one of the two.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from longrec.core.errors import DataError, UsageError, first_line
from longrec.core.files import (
    digest_of_config,
    digest_of_file,
    is_free,
    sync,
    sync_names,
    write_file,
    writing_folder,
)
from longrec.core.format import size
from longrec.core.lock import LOCK, locked
from longrec.core.memory import available_memory
from longrec.core.staged import locate, settle, stage, staged

MOST_BYTES = 256 << 20
"""Bytes of a document that are read, where its kind says nothing."""
MOST_FILES = 10_000
"""Files that a document may describe."""
ATTEMPTS = 3
"""Times that a folder is read in which something is missing or odd: another process may have
replaced it meanwhile."""
R = TypeVar("R")


@dataclass(frozen=True)
class SealedKind:
    """One kind of sealed folder.

    Attributes
    ----------
    name : with its article, as messages call it: "a recommender".
    document : file name of the JSON document.
    version : the one that this longrec writes and reads; None where the document has none.
    mend : what to do when a folder is damaged: "copy the folder again".
    made_by : the command that makes one, for who names a folder that is none.
    with_digests : whether the document has them.
    keys : further keys that the document must have, and their types.
    files : names of files that must be there; of a kind with digests also those that have one.
    version_key : the document's key of the version.
    also_reads : older versions that are read as well.
    most_bytes : of the document, and of each further JSON file: what is larger is not read.
    whole_in_memory : whether the files are read into memory, so that one is not even looked
        through that is larger than what is free.
    """

    name: str
    document: str
    version: int | None
    mend: str
    made_by: str
    with_digests: bool = True
    keys: Mapping[str, type] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    version_key: str = "format"
    also_reads: tuple[int, ...] = ()
    most_bytes: int = MOST_BYTES
    whole_in_memory: bool = False

    def describe(self, about: Mapping[str, Any], files: Iterable[Path] = ()) -> dict[str, Any]:
        """The document of a folder that holds these files."""
        version = {} if self.version is None else {self.version_key: self.version}
        document: dict[str, Any] = {**version, **about}
        if self.with_digests:
            document["digests"] = {path.name: digest_of_file(path) for path in files}
            document["digest"] = digest_of_config(document)
        return document

    def write(self, folder: Path, document: Mapping[str, Any]) -> None:
        """Write the document of `describe`, the last file of a folder."""
        self.write_json(folder / self.document, document)

    def write_json(self, path: Path, document: Mapping[str, Any]) -> None:
        """Write a JSON file of such a folder; DataError where it could not be read, being large."""
        text = json.dumps(document, indent=1)
        if len(text) > self.most_bytes:
            raise DataError(
                f"{path} would have {size(len(text))}, and at most {size(self.most_bytes)} are read"
            )
        write_file(path, text)

    def replace(
        self, folder: Path, about: Mapping[str, Any], write: Callable[[Path], None]
    ) -> dict[str, Any]:
        """Write a folder's files, of a kind with digests, in place of those that may be there.

        The new ones count from one instant on (`longrec.core.staged`); a failure or a kill leaves
        the old or the new ones whole. Files of other names stay.

        Parameters
        ----------
        folder : Path
            Made if need be.
        about : mapping
            What the document says besides digests.
        write : callable
            Writes the kind's `files`, and further ones, into the folder that it is given.

        Returns
        -------
        dict
            The document.

        Raises
        ------
        OSError
            When it cannot be written.
        LongrecError
            When another process is writing to it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder, "writer", f".{self.document}.lock"):
            old = self._digests_now(folder)
            settle(folder, self.document, old)
            work = stage(folder, self.document)
            document: dict[str, Any] = {}
            try:
                write(work)
                files = sorted(work.iterdir())
                for file in files:
                    sync(file)
                sync(work)
                document = self.describe(about, files)
                self.write(folder, document)
                sync(folder)
                sync_names(folder)
                settle(folder, self.document, document["digests"])
                for name in old.keys() - document["digests"].keys():
                    (folder / name).unlink(missing_ok=True)
            except BaseException:
                # An interrupt may come just after the new document took its place: then its files
                # are where they were written, and stay.
                if self._digests_now(folder) != document.get("digests"):
                    shutil.rmtree(work, ignore_errors=True)
                raise
        return document

    def _digests_now(self, folder: Path) -> dict[str, str]:
        """The digests that the document in a folder has; none if there is no sound one."""
        try:
            digests = self.read_json(folder / self.document).get("digests")
        except DataError:
            return {}
        if not isinstance(digests, dict):
            return {}
        return {name: digest for name, digest in digests.items() if Path(name).name == name}

    def read(self, folder: Path) -> dict[str, Any]:
        """The document of a folder whose files are all there, and as written if they have digests.

        Raises
        ------
        DataError
            When it is missing, of another version, edited or damaged.
        """
        return self.read_whole(folder, lambda document, files: document)

    def begun(self, folder: Path, what: str) -> dict[str, Any] | None:
        """What the document of work that goes on in a folder holds; None in a new or empty one.

        Parameters
        ----------
        folder : path
        what : of which work, a word such as "comparison".

        Raises
        ------
        DataError
            As `read`.
        UsageError
            When the folder is a file or holds other things.
        """
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder} is a file; a {what} needs a folder")
        if not (folder / self.document).is_file():
            if folder.is_dir() and any(path.name != LOCK for path in folder.iterdir()):
                raise UsageError(
                    f"{folder} holds other files and no {what}: choose an empty or new folder"
                )
            return None
        document = self.read(folder)
        del document["format"]
        return document

    def read_whole(self, folder: Path, use: Callable[[dict[str, Any], dict[str, Path]], R]) -> R:
        """What `use` makes of a folder's document and the places of its files, by their names.

        All of them are of one writing, even if the folder is replaced meanwhile: then `use` is
        called again.

        Raises
        ------
        DataError
            When it is missing, of another version, edited or damaged; or what `use` raises.
        """
        for left in reversed(range(ATTEMPTS)):
            at_rest = not staged(folder, self.document)
            document = self.read_document(folder)
            try:
                result = use(document, self._places(folder, document))
            except (DataError, OSError):
                at_rest = at_rest and not staged(folder, self.document)
                if not left or (at_rest and self.read_document(folder) == document):
                    raise  # nobody is replacing it
                continue
            if self.read_document(folder) == document:
                return result
        raise DataError(f"{folder} is being replaced again and again: read it later.")

    def _places(self, folder: Path, document: Mapping[str, Any]) -> dict[str, Path]:
        """Where each file stands, its digest checked if it has one."""
        digests = document["digests"] if self.with_digests else {}
        if len(digests) > MOST_FILES or any(Path(name).name != name for name in digests):
            raise DataError(
                f"{folder / self.document} is damaged (digests has names that are none of files in "
                f"this folder): {self.mend}."
            )
        if self.whole_in_memory:
            self._check_sizes(folder, {*self.files, *digests})
        places = {}
        for name in dict.fromkeys((*self.files, *digests)):
            path: Path | None = folder / name
            if self.with_digests:
                path = locate(folder, self.document, name, digests.get(name))
            elif not (folder / name).is_file():
                path = None
            if path is None:
                if not (folder / name).is_file():
                    raise DataError(f"{folder / name} is missing: {self.mend}.")
                raise DataError(
                    f"{folder / name} is not what was saved (its digest differs): it was truncated "
                    f"or edited; {self.mend}."
                )
            places[name] = path
        return places

    def _check_sizes(self, folder: Path, names: Iterable[str]) -> None:
        """Raise DataError for a file that does not fit in memory, before it is looked through."""
        free = available_memory()
        for name in names:
            with suppress(OSError):  # missing: told later
                if (found := (folder / name).stat().st_size) > free:
                    raise DataError(
                        f"{folder / name} has {size(found)}, and {size(free)} of memory are free: "
                        f"use a larger machine, or {self.mend}."
                    )

    def read_json(self, path: Path) -> dict[str, Any]:
        """A JSON file of such a folder, which holds an object; DataError as `read_json`."""
        return read_json(path, self.mend, self.most_bytes)

    def read_document(self, folder: Path) -> dict[str, Any]:
        """The document alone, checked; the other files are not looked at.

        Raises
        ------
        DataError
            When it is missing, of another version, edited or damaged.
        """
        path = folder / self.document
        if not folder.exists():
            raise DataError(f"{folder}: no such folder; `{self.made_by}` makes {self.name}.")
        if not folder.is_dir():
            raise DataError(
                f"{folder} is a file; {self.name} is a folder that `{self.made_by}` makes."
            )
        if not path.is_file():
            raise DataError(
                f"{folder} is not {self.name}: it has no {self.document}; `{self.made_by}` makes "
                "one."
            )
        document = self.read_json(path)
        keys: dict[str, type] = {"digest": str, "digests": dict} if self.with_digests else {}
        self._check_version(path, document)
        for key, kind in (keys | dict(self.keys)).items():
            if not is_of_type(document.get(key), kind):
                raise DataError(f"{path} is damaged (it lacks {key!r}): {self.mend}.")
        if self.with_digests:
            without = {key: value for key, value in document.items() if key != "digest"}
            try:
                digest = digest_of_config(without)
            except RecursionError:
                raise DataError(
                    f"{path} is damaged (values nested too deeply): {self.mend}."
                ) from None
            if digest != document["digest"]:
                raise DataError(
                    f"{path} was edited by hand (its digest differs): undo that, or {self.mend}."
                )
        return document

    def _check_version(self, path: Path, document: Mapping[str, Any]) -> None:
        if self.version is None:
            return
        if self.version_key not in document:
            raise DataError(f"{path} is damaged (it lacks {self.version_key!r}): {self.mend}.")
        found, words = document[self.version_key], self.version_key.replace("_", " ")
        if isinstance(found, bool) or found not in (self.version, *self.also_reads):
            newer = isinstance(found, int) and found > self.version
            raise DataError(
                f"{path} has {words} {found!r:.40}, this longrec reads {self.version}: "
                f"{'upgrade longrec' if newer else self.mend}."
            )

    def writing(self, folder: Path, *, overwrite: bool) -> AbstractContextManager[Path]:
        """Write a folder as `writing_folder` does, which may replace one of this kind alone.

        Raises
        ------
        UsageError
            When anything else stands there, or one of this kind and it is not to be replaced.
        DataError
            When it cannot be written; nothing is left behind then.
        """
        self.check_replaceable(folder, overwrite=overwrite)
        return writing_folder(folder, overwrite=overwrite)

    def check_replaceable(self, folder: Path, *, overwrite: bool) -> None:
        """Raise UsageError unless a folder of this kind may be written there."""
        if is_free(folder):
            return
        if not self._is_at(folder):
            raise UsageError(
                f"{folder} exists and is not {self.name}: it is left alone. Name another folder."
            )
        if not overwrite:
            raise UsageError(
                f"{folder} exists. Name another folder, or allow it to be replaced with "
                "overwrite=True (--overwrite)."
            )

    def _is_at(self, folder: Path) -> bool:
        """Whether a folder is of this kind, whole or damaged."""
        if not (folder / self.document).is_file():
            return False
        if any((folder / name).is_file() for name in self.files):
            return True
        try:
            document = self.read_json(folder / self.document)
        except DataError:
            return False
        version = () if self.version is None else (self.version_key,)
        return document.keys() >= {*version, *self.keys}


def read_json(path: Path, mend: str, most_bytes: int = MOST_BYTES) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises
    ------
    DataError
        When it is missing, too large or damaged; the message ends with `mend`.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for, a device never end
            raise DataError(f"{path} is no file: {mend}.")
        with path.open("rb") as file:
            text = file.read(most_bytes + 1)
        if len(text) > most_bytes:
            raise DataError(f"{path} has more than {size(most_bytes)}: {mend}.")
        content = json.loads(text.decode("utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} is missing: {mend}.") from None
    except RecursionError:
        raise DataError(f"{path} is damaged (values nested too deeply): {mend}.") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is damaged ({first_line(error)}): {mend}.") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is damaged (it holds no JSON object): {mend}.")
    return content


def is_of_type(value: object, kind: type | tuple[type, ...]) -> bool:
    """Whether a value of a JSON file is of a type; true and false are no integers."""
    if isinstance(value, bool):
        return kind is bool or (isinstance(kind, tuple) and bool in kind)
    return isinstance(value, kind)
