"""A request that was admitted, as what answers it sees it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter

JSON = "application/json"


class Call:
    """A request and the moments of its answer.

    Attributes
    ----------
    headers : by name, in small letters.
    body : all of it, once it has come.
    began : when its head had come, on `perf_counter`.
    found : when its answer was known, if it notes that; what follows is writing it.
    """

    __slots__ = ("began", "body", "found", "headers")

    def __init__(self, headers: Mapping[bytes, bytes]) -> None:
        self.headers, self.body = headers, b""
        self.began, self.found = perf_counter(), 0.0

    @property
    def says_json(self) -> bool:
        """Whether its body is said to be JSON."""
        kind = self.headers.get(b"content-type", b"")
        return kind == b"application/json" or (
            kind.partition(b";")[0].strip().lower() == b"application/json"
        )


Direct = Mapping[tuple[str, str], Callable[[Call], Awaitable[bytes]]]
"""By method and path what answers, with the JSON of a 200; what it raises is answered as routes'
errors are. No route is looked for, which takes longer than most answers."""
