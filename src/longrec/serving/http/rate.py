"""How often somebody may ask: a bucket of tokens each, refilled at a steady rate."""

from __future__ import annotations

from collections import OrderedDict
from time import monotonic

MANY = 10_000
"""Buckets kept; the one that was not asked for longest goes first."""


class Rates:
    """Buckets by name.

    Parameters
    ----------
    rate : tokens per second; a full bucket holds twice as many, at least one.
    """

    def __init__(self, rate: float) -> None:
        self._rate, self._full = rate, max(1.0, 2 * rate)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str) -> float:
        """Take a token: 0 if there was one, else the seconds until there is."""
        now = monotonic()
        tokens, since = self._buckets.pop(name, (self._full, now))
        tokens = min(self._full, tokens + (now - since) * self._rate)
        wait = 0.0 if tokens >= 1 else (1 - tokens) / self._rate
        self._buckets[name] = (tokens if wait else tokens - 1, now)
        if len(self._buckets) > MANY:
            self._buckets.popitem(last=False)
        return wait
