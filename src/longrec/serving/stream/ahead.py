"""Times that no clock shows yet: an event of the future would hold back its user's for years.

Each later event of the user would be late and count as simultaneous with it, so that the model
reads no time gap any more. Such an event is refused before anything is logged.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from longrec.core.errors import UsageError

DAY = 86_400.0
"""Seconds that events may be ahead of this machine's clock, where nobody says otherwise."""


class TimeAhead(UsageError):
    """An event's time is further ahead of this machine's clock than is allowed."""


class Clock:
    """Which times are too far ahead.

    Parameters
    ----------
    most : seconds that a time may be ahead of this machine's clock; None: any.
    """

    def __init__(self, most: float | None) -> None:
        self._most = most

    @property
    def latest(self) -> float:
        """The latest time that is allowed now, in seconds since 1970 (UTC)."""
        return float("inf") if self._most is None else time.time() + self._most

    def check(self, moment: int, name: str = "time") -> None:
        """Raise TimeAhead where a moment, in seconds since 1970, is too far ahead."""
        if self._most is None or moment <= self.latest:
            return
        raise TimeAhead(
            f"{name} is {moment} ({_shown(moment)}), and this machine's clock says "
            f"{_shown(int(time.time()))}: an event may be {timedelta(seconds=self._most)} ahead of "
            "it (max_ahead). Mend the time, or the clock"
        )


def _shown(moment: int) -> str:
    try:
        return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError, OSError):
        return "after the year 9999"
