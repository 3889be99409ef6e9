"""Where items are kept, as a URL says it; no part of a key or a password is shown."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from longrec.core.errors import UsageError

EXAMPLES = (
    "qdrant://host:6333/COLLECTION, qdrant:///folder/COLLECTION, milvus://host:19530/COLLECTION, "
    "milvus:///folder/NAME.db/COLLECTION or postgresql://user@host/database?table=NAME"
)


class Place(NamedTuple):
    """Where a collection is.

    url : fit to be shown;
    host : None without a server;
    folder : without a server the folder; of a server what stands before the collection;
    collection : its name.
    """

    url: str
    host: str | None
    port: int
    folder: str
    collection: str

    @classmethod
    def parse(cls, url: str, port: int, variable: str) -> Place:
        """Take `scheme://host:port/COLLECTION` or `scheme:///folder/COLLECTION` apart.

        `port` stands for one that is not given, `variable` has the key.

        Raises
        ------
        UsageError
            When no collection is named, or there is more than that, such as a key.
        """
        parts = taken_apart(url)
        if parts.netloc and "@" in url:
            raise UsageError(
                f"{parts.scheme}://… has a user, a key or a password in it: leave it out, and set "
                f"{variable}"
            )
        if parts.query or parts.fragment:
            raise UsageError(f"{parts.scheme}://… ends in options, of which there are none")
        folder, _, collection = parts.path.rpartition("/")
        if not collection or not (parts.hostname or folder):
            raise UsageError(f"{url!r} names no collection: give {EXAMPLES}")
        given = _port(parts)
        return cls(url, parts.hostname, given or port, folder, collection)


def taken_apart(url: str) -> SplitResult:
    """A URL's parts; UsageError, with no part of it, when it cannot be read."""
    try:
        return urlsplit(url)
    except ValueError:  # its own text may have parts of a password: nothing is raised from it
        pass
    raise unreadable(url)


def unreadable(url: str) -> UsageError:
    """The error for a URL that may have a password in places where none belongs."""
    return UsageError(
        f"the URL {url.partition('://')[0]}://… cannot be read: percent-encode what is special in "
        "a password, and write ports as numbers"
    )


def _port(parts: SplitResult) -> int | None:
    try:
        return parts.port
    except ValueError:
        pass
    raise unreadable(parts.geturl())
