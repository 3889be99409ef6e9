"""One event's time, as a caller gives it."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import numpy as np

from longrec.core.arguments import described
from longrec.core.errors import UsageError

MAX_SECONDS = 10**11
"""Seconds no clock shows for 3,000 years; milliseconds do today."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def seconds(time: Any) -> int:
    """An event's time as whole seconds since 1970 (UTC), rounded down.

    Parameters
    ----------
    time : int or float of seconds, datetime (UTC if it names no zone), or numpy scalar of these

    Raises
    ------
    UsageError
        When it is no time, or looks like milliseconds.
    """
    whole: int | None = None
    if type(time) is int:
        whole = time
    elif isinstance(time, datetime) and time == time:  # pandas' NaT is one, and not itself
        gap = (time if time.tzinfo else time.replace(tzinfo=UTC)) - EPOCH
        whole = gap.days * 86_400 + gap.seconds
    elif isinstance(time, int | np.integer) and not isinstance(time, bool):
        whole = int(time)
    elif isinstance(time, float | np.floating) and math.isfinite(time):
        whole = math.floor(time)
    if whole is None:
        raise UsageError(
            f"time is {described(time)}; give seconds since 1970 (UTC) as a number, or a datetime"
        )
    if not -MAX_SECONDS <= whole <= MAX_SECONDS:
        raise UsageError(f"time is {described(whole)}, which looks like milliseconds: give seconds")
    return whole
