"""Logs and histories in object stores (`s3://…`, `gs://…`), copied to this machine's disk first.

Who may read is said by the store's own ways: AWS_ACCESS_KEY_ID and the like, a profile, the role of
the machine. An address that has a password in it is refused, and messages have none.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from longrec.core.errors import DataError, LongrecError, UsageError, first_line
from longrec.core.files import disk_full, writing_folder

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

OPTIONS = ("region", "scheme", "endpoint_override")
"""What may stand behind an address, ?region=eu-west-1&…"""
SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_ADDRESS = re.compile(r"(s3|gs):/{1,2}(?=[^/])(.+)", re.DOTALL)
_QUERY = re.compile(r"\?([\w-]+=.*)$", re.DOTALL)
_LOG = "objects"


def address_of(path: object) -> str | None:
    """The address in an object store that a path is, with the slash that `Path` takes from it."""
    found = _ADDRESS.fullmatch(os.fspath(path)) if isinstance(path, str | os.PathLike) else None
    return None if found is None else f"{found[1]}://{found[2]}"


class Objects:
    """What lies at an address.

    Parameters
    ----------
    address : as of `address_of`; of objects in a "folder", of one, or a glob of some.

    Attributes
    ----------
    shown : the address as messages and records have it.

    Raises
    ------
    UsageError
        When it has a password, or an option that is not known.
    """

    def __init__(self, address: str) -> None:
        scheme, _, rest = address.partition("://")
        query = _QUERY.search(rest)
        self.path = (rest if query is None else rest[: query.start()]).rstrip("/")
        bucket = self.path.partition("/")[0]
        if set(bucket) & {"@", ":"}:  # a password may have a slash, and the @ be behind it
            raise UsageError(
                "an address of an object store has a name or a password in it (NAME:PASSWORD@): "
                f"leave it out, and give it as {' and '.join(SECRETS[:2])}, or by a profile"
            )
        pairs = query[1].split("&") if query is not None else []
        options = {name: value for name, _, value in (pair.partition("=") for pair in pairs)}
        for name in options:
            if name not in OPTIONS:
                raise UsageError(
                    f"{scheme}://{self.path} has the option {name!r} behind it; give "
                    f"{', '.join(OPTIONS)}, and what is secret as {' and '.join(SECRETS[:2])}"
                )
        self.shown = f"{scheme}://{self.path}"
        self.scheme = scheme
        with self._explained():
            self.store = _store(scheme, bucket, options)

    def names(self) -> list[str]:
        """Bucket and key of each object, in order.

        Raises
        ------
        DataError
            When there is none, or the store does not answer or allow it.
        """
        import pyarrow.fs as fs

        with self._explained():
            found = self.store.get_file_info(self.path)
            if found.type == fs.FileType.File:
                return [self.path]
            base = self.path
            if found.type == fs.FileType.NotFound:
                parts = self.path.split("/")
                marks = [number for number, part in enumerate(parts) if set(part) & set("*?[")]
                base = "/".join(parts[: marks[0]]) if marks else ""
            below = fs.FileSelector(base, recursive=True, allow_not_found=True)
            infos = self.store.get_file_info(below) if base else []
            keys = sorted(one.path for one in infos if one.type == fs.FileType.File)
        if base != self.path:
            pattern = _pattern(self.path)
            keys = [key for key in keys if pattern.fullmatch(key)]
        if not keys:
            raise self.lacks("no such object, and none below it")
        return keys

    def lacks(self, what: str) -> DataError:
        """The error for something that is not there, or for a bucket that is not."""
        import pyarrow.fs as fs

        bucket = self.path.partition("/")[0]
        with suppress(OSError):  # who may read some objects may perhaps not ask for the bucket
            if self.store.get_file_info(bucket).type == fs.FileType.NotFound:
                what = f"there is no bucket {bucket!r}"
        return DataError(f"{self.shown}: {what}.")

    def copy(self, key: str, place: Path) -> None:
        """Copy an object to a file."""
        import pyarrow.fs as fs

        place.parent.mkdir(parents=True, exist_ok=True)
        with self._explained():
            fs.copy_files(key, str(place), self.store, fs.LocalFileSystem())

    def read(self, name: str) -> bytes | None:
        """A small object below the address, None where there is none."""
        import pyarrow.fs as fs

        with self._explained():
            place = f"{self.path}/{name}"
            if self.store.get_file_info(place).type != fs.FileType.File:
                return None
            with self.store.open_input_stream(place) as stream:
                found: bytes = stream.read()
            return found

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            full = disk_full(error)
            if full is not None:
                raise LongrecError(f"{full}; free space on it, or use another one") from None
            line = first_line(error)
            mend = (
                f"see whether the address is right, and whether {', '.join(SECRETS[:2])} or "
                "AWS_PROFILE, AWS_REGION and AWS_ENDPOINT_URL say who may read there"
            )
            if "NETWORK_CONNECTION" in line:
                mend = (
                    "see whether AWS_ENDPOINT_URL is right and the store can be reached, and run "
                    "the command again"
                )
            raise DataError(
                f"{self.shown} cannot be read ({_masked(line)[:300]}): {mend}."
            ) from None  # what the library says may have keys in it


def copy_log(address: str, folder: Path) -> tuple[str, Path]:
    """Copy the objects of a log below a folder -> the path, folder or glob of them there, and
    where `scheme://` is in it."""
    objects = Objects(address)
    root = folder / _LOG / objects.scheme
    for key in objects.names():
        objects.copy(key, root / key)
    return str(root / objects.path), root


def copy_histories(address: str, documents: Sequence[str], verify: Callable[[Path], None]) -> Path:
    """The copy of a histories folder in the user's cache; copied if need be, whole or not at all.

    Parameters
    ----------
    documents : the files of which a folder of histories has one.
    verify : raises DataError unless a folder is what was written.
    """
    import pooch

    objects = Objects(address)
    text = next((one for one in map(objects.read, documents) if one is not None), None)
    if text is None:
        raise objects.lacks(f"no histories are there, it has no {' or '.join(documents)}")
    try:
        version = str(json.loads(text)["fingerprint"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{objects.shown} is damaged: copy the folder there again.") from error
    name = f"{hashlib.sha256(objects.shown.encode() + version.encode()).hexdigest()[:24]}"
    place = Path(pooch.os_cache("longrec")) / "histories" / name
    if not place.is_dir():
        with writing_folder(place) as folder:
            for key in objects.names():
                objects.copy(key, folder / key.removeprefix(f"{objects.path}/"))
            try:
                verify(folder)  # a folder that is replaced meanwhile would be half of each
            except DataError as error:
                raise DataError(
                    f"{objects.shown} is damaged, or was changed while it was copied: run the "
                    "command again, and if that is no help, copy the folder there again."
                ) from error
    return place


def _store(scheme: str, bucket: str, options: dict[str, str]) -> FileSystem:
    import pyarrow.fs as fs

    if scheme == "gs":
        return fs.GcsFileSystem()
    environment = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    kind, _, host = environment.partition("://")
    given: dict[str, Any] = {"connect_timeout": 10, "request_timeout": 60}
    if endpoint := options.get("endpoint_override", host.rstrip("/")):
        given["endpoint_override"] = endpoint
        given["scheme"] = options.get("scheme", kind or "https")
    region = options.get("region") or os.environ.get("AWS_REGION")
    region = region or os.environ.get("AWS_DEFAULT_REGION")
    if region is None and not endpoint:
        region = fs.resolve_s3_bucket_region(bucket)
    return fs.S3FileSystem(region=region or "us-east-1", **given)


def _pattern(glob: str) -> re.Pattern[str]:
    """A glob as a pattern, in which * stays within a folder and ** does not."""
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    found = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", glob)
    return re.compile("".join(words.get(w, w if w[:1] == "[" else re.escape(w)) for w in found))


def _masked(text: str) -> str:
    """Text without what the environment keeps secret."""
    for name in SECRETS:
        if secret := os.environ.get(name):
            text = text.replace(secret, "…")
    return text
