"""What a consumer tells while it runs: metrics for Prometheus, and a line of progress for people.

No id of a user or item is in them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
)

from longrec.core.errors import LongrecError
from longrec.ingest import dead_letters, source
from longrec.serving.stream.writer import Counts

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
RATE_OVER = 5.0
"""Seconds over which a rate is taken, at least."""


class Telemetry:
    """Metrics of one consumer, in a registry of its own.

    Attributes
    ----------
    counts : what became of the events so far; messages, letters : how many there were.
    lag : messages behind, per partition, when it was last asked for.
    """

    def __init__(self, notes: source.Notes) -> None:
        self.counts, self.messages, self.letters = Counts(), 0, 0
        self.lag: dict[str, int] = {}
        self._rate, self._rate_from = 0.0, (time.monotonic(), 0)
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        self._messages = counter("longrec_consume_messages_total", "Messages read.")
        self._events = counter(
            "longrec_consume_events_total",
            "Events in them: accepted; duplicate, logged before; and of the accepted ones: "
            "unknown, with an item that the model does not know, and late, earlier than one "
            "before.",
            ("outcome",),
        )
        self._letters = counter(
            "longrec_consume_dead_letters_total",
            "Messages that are no events, by the kind of reason.",
            ("kind",),
        )
        for kind in dead_letters.KINDS:
            self._letters.labels(kind)
        self._lag = gauge("longrec_consume_lag", "Messages that are not read yet.", ("partition",))
        gauge(
            "longrec_consume_messages_per_second", "Messages read, over the last seconds."
        ).set_function(lambda: self.rate)
        self._seconds = Histogram(
            "longrec_consume_batch_seconds",
            "From a batch that was read to its positions kept.",
            buckets=SECONDS,
            registry=registry,
        )
        self._waiting = gauge(
            "longrec_consume_waiting", "1 while what is named does not answer.", ("on",)
        )
        for on in ("source", "store"):
            self._waiting.labels(on)
        happened = gauge(
            "longrec_consume_happened",
            "Counted since the start: "
            + "; ".join(f"{kind}: {words}" for kind, words in source.KINDS.items())
            + ".",
            ("kind",),
        )
        for kind in source.KINDS:
            happened.labels(kind).set_function(partial(notes.counts.__getitem__, kind))

    def serve(self, host: str, port: int) -> None:
        """Answer Prometheus at http://host:port/metrics, from a thread of its own.

        Raises
        ------
        LongrecError
            When the address is taken, or not this machine's.
        """
        try:
            start_http_server(port, host, self._registry)
        except OSError as error:
            raise LongrecError(
                f"the metrics cannot be served at {host}:{port} ({error.strerror}): give another "
                "--metrics-port or --metrics-host"
            ) from error

    @property
    def rate(self) -> float:
        """Messages per second, over the last seconds."""
        (since, messages), now = self._rate_from, time.monotonic()
        if now - since >= RATE_OVER:
            self._rate = (self.messages - messages) / (now - since)
            self._rate_from = now, self.messages
        return self._rate

    def batch(
        self, messages: int, counts: Counts, letters: Mapping[str, int], seconds: float
    ) -> None:
        """A batch that is done."""
        self._messages.inc(messages)
        self._seconds.observe(seconds)
        names = ("accepted", "duplicate", "unknown", "late")
        for name, number in zip(names, counts, strict=False):
            self._events.labels(name).inc(number)
        for kind, number in letters.items():
            self._letters.labels(kind).inc(number)
        self.messages += messages
        self.letters += sum(letters.values())
        self.counts = Counts(*(a + b for a, b in zip(self.counts, counts, strict=True)))

    def lags(self, lag: Mapping[str, int]) -> None:
        """How far behind each partition is that this consumer reads; of no other one."""
        for partition in self.lag.keys() - lag.keys():
            self._lag.remove(partition)
        for partition, number in lag.items():
            self._lag.labels(partition).set(number)
        self.lag = dict(lag)

    def waiting(self, on: str, waits: bool) -> None:
        """Whether the source or the store does not answer."""
        self._waiting.labels(on).set(waits)

    def line(self) -> str:
        """A line of progress."""
        lag = sum(self.lag.values())
        words = (
            f"{self.messages:,} messages ({self.rate:,.0f}/s), {self.counts.accepted:,} events "
            f"logged, lag {lag:,} in {len(self.lag)} partitions"
        )
        return words + (f", {self.letters:,} dead letters" if self.letters else "")
