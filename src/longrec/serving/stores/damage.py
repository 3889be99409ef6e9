"""What was found damaged in a store: counted, and told in a line of the log each second at most."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from typing import Literal

log = logging.getLogger("longrec.serve.store")
"""Beneath the log of `longrec serve`; elsewhere Python writes its warnings to standard error."""

Kind = Literal["record", "bitmap", "result", "event", "user", "cut"]
KINDS: dict[Kind, str] = {
    "record": "records that do not fit their checksums, replayed from the log",
    "bitmap": "bitmaps of seen items that do not fit their checksums, replayed from the log",
    "result": "records that gave scores that are no numbers, replayed from the log",
    "event": "events of logs that are damaged or missing, skipped",
    "user": "users whose logs cannot be found, refused",
    "cut": "times that the store lost what was acknowledged",
}
"""What is counted, in words."""
LINE_EVERY = 1.0
"""Seconds between two lines."""


class Damage:
    """What was found since a store was opened, each time that it was met; for any thread.

    Attributes
    ----------
    counts : how often, by kind.
    """

    def __init__(self, url: str) -> None:
        self.url, self.counts = url, Counter[str]()
        self._lock, self._line_after = threading.Lock(), 0.0
        self._told = Counter[str]()

    def note(self, kind: Kind, number: int = 1, where: str = "") -> None:
        """Count damage; `where` names the place by what is no person's id, such as a log's."""
        with self._lock:
            self.counts[kind] += number
            now = time.monotonic()
            if now < self._line_after:
                return
            self._line_after = now + LINE_EVERY
            new = self.counts - self._told
            self._told = self.counts.copy()
        found = "; ".join(f"{new[kind]:,} {words}" for kind, words in KINDS.items() if new[kind])
        log.error(
            "damage in %s: %s%s. See `longrec store verify %s`",
            self.url,
            found,
            f" (the last: {where})" if where else "",
            self.url,
        )
