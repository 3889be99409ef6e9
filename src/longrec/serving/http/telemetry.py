"""What a server tells of itself to Prometheus; no id of a user or item is in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from longrec.serving.stream.writer import Observed

BUCKETS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
"""Seconds: an event takes some tenths of a millisecond, a Redis that is away up to ten seconds."""
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
STAGES = ("parse", "queue", "log", "rank", "reply")


class Telemetry:
    """Metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._requests = Counter(
            "longrec_requests_total",
            "Requests answered, by route and status.",
            ("route", "method", "status"),
            registry=registry,
        )
        self._seconds = Histogram(
            "longrec_request_seconds",
            "From a request's head to the end of its answer.",
            ("route",),
            buckets=BUCKETS,
            registry=registry,
        )
        stages = Histogram(
            "longrec_stage_seconds",
            "Where a request's time goes: parse (its body read and checked), queue (waiting for "
            "the batch before), log (a batch of events), rank (a batch of recommendations), reply.",
            ("stage",),
            buckets=BUCKETS,
            registry=registry,
        )
        self._stages = {stage: stages.labels(stage) for stage in STAGES}
        self._queue = Gauge(
            "longrec_queue_length",
            "Events, or recommendations, that wait for their batch.",
            ("queue",),
            registry=registry,
        )
        self._batches = Histogram(
            "longrec_batch_size",
            "Requests done together.",
            ("queue",),
            buckets=SIZES,
            registry=registry,
        )
        self._events = Counter(
            "longrec_events_total",
            "Events: accepted; duplicate, not logged again; and of the accepted ones: unknown, "
            "with an item that the model does not know, and late, earlier than one before.",
            ("outcome",),
            registry=registry,
        )
        for outcome in ("accepted", "duplicate", "unknown", "late"):
            self._events.labels(outcome)
        self.cold = Counter(
            "longrec_cold_total", "Recommendations of popular items alone.", registry=registry
        )
        self.swaps = Counter(
            "longrec_swaps_total",
            "Changes of the model: done, failed.",
            ("outcome",),
            registry=registry,
        )
        self.swapping = Gauge(
            "longrec_swap_progress",
            "How far a change of the model is, from 0 to 1; -1: none is going on.",
            registry=registry,
        )
        self.swapping.set(-1)
        self._model = Info("longrec_model", "The model that is served.", registry=registry)
        self._recall = Gauge(
            "longrec_index_recall",
            "recall@10 of the index against exact search, measured when it was built.",
            registry=registry,
        )
        self.looked = Gauge(
            "longrec_records_looked_at",
            "Users whose records were looked at in the last round of some.",
            registry=registry,
        )
        self.behind = Gauge(
            "longrec_records_behind",
            "How many of these records were behind their log, or missing.",
            registry=registry,
        )

    def model(self, name: str, digest: str, catalog: str, index: str, recall: float) -> None:
        """Which model is served from now on."""
        self._model.info(
            {"name": name, "digest": digest, "catalog_version": catalog, "index": index}
        )
        self._recall.set(recall)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request that has been answered."""
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def stage(self, stage: str, seconds: float) -> None:
        """A stage of a request, or of a batch."""
        self._stages[stage].observe(seconds)

    def batch(
        self, queue: str, stage: str, works: int, waited: Sequence[float], seconds: float
    ) -> None:
        """A batch that is done, and how long its works waited."""
        self._batches.labels(queue).observe(works)
        self._stages[stage].observe(seconds)
        for one in waited:
            self._stages["queue"].observe(one)

    def watch(self, queue: str, waiting: Callable[[], int]) -> None:
        """How many wait is asked when the metrics are."""
        self._queue.labels(queue).set_function(waiting)

    def events(self, outcomes: Sequence[Observed]) -> None:
        """What became of events."""
        counts = {
            "accepted": sum(one.new for one in outcomes),
            "duplicate": sum(not one.new for one in outcomes),
            "unknown": sum(one.new and not one.known for one in outcomes),
            "late": sum(one.new and one.late for one in outcomes),
        }
        for outcome, many in counts.items():
            if many:
                self._events.labels(outcome).inc(many)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)
