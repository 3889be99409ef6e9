"""A server's metrics for Prometheus; no id of a user or item is in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Info,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from longrec.serving.http.figures import Count, Sizes
from longrec.serving.http.keys import Keys
from longrec.serving.stores.damage import KINDS
from longrec.serving.stream.stream import Stream
from longrec.serving.stream.writer import Counts

BUCKETS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
"""Seconds: an event takes some tenths of a millisecond, a Redis that is away up to ten seconds."""
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
OUTCOMES = ("accepted", "duplicate", "unknown", "late", "conflicting")
"""What becomes of events, as `Counts` has it."""
STAGES = ("parse", "queue", "log", "rank", "reply")
NOTHING_COUNTED: dict[str, Any] = {
    **dict.fromkeys(("events_of_training", "events_of_log"), 0),
    **dict.fromkeys(("age_s", "serves")),
}
"""The figures of counts of which there are none."""


class Telemetry:
    """Metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        self._requests = Count(
            registry,
            "longrec_requests_total",
            "Requests answered, by route and status.",
            ("route", "method", "status"),
        )
        self._seconds = Sizes(
            registry,
            "longrec_request_seconds",
            "From a request's head to the end of its answer.",
            "route",
            BUCKETS,
        )
        self._stages = Sizes(
            registry,
            "longrec_stage_seconds",
            "Where a request's time goes: parse (its body read and checked), queue (waiting for "
            "the batch before), log (a batch of events), rank (a batch of recommendations), reply.",
            "stage",
            BUCKETS,
            STAGES,
        )
        self._queue = gauge(
            "longrec_queue_length",
            "Events, or recommendations, that wait for their batch.",
            ("queue",),
        )
        self._batches = Sizes(
            registry, "longrec_batch_size", "Requests done together.", "queue", SIZES
        )
        self._events = Count(
            registry,
            "longrec_events_total",
            "Events: accepted; duplicate, not logged again; and of the accepted ones: unknown, "
            "with an item that the model does not know, and late, earlier than one before; "
            "refused, not logged: its time is too far ahead of the clock; and of the duplicates "
            "conflicting: another event has the id.",
            ("outcome",),
            [(outcome,) for outcome in (*OUTCOMES, "refused")],
        )
        self.cold = counter("longrec_cold_total", "Recommendations of popular items alone.")
        self.reloads = counter(
            "longrec_swaps_total",
            "Changes of the model: done; failed; given up, as another one was asked for.",
            ("outcome",),
        )
        self.reload_progress = gauge(
            "longrec_swap_progress",
            "How far a change of the model is, from 0 to 1; -1: none is going on.",
        )
        self.reload_progress.set(-1)
        self.store_work = gauge(
            "longrec_store_work_progress",
            "How far what GET /v1/model tells as `store` is, from 0 to 1; -1: nothing is going on.",
        )
        self.store_work.set(-1)
        self._model = Info("longrec_model", "The model that is served.", registry=registry)
        self._recall = gauge(
            "longrec_index_recall",
            "recall@10 of the index against exact search, measured when it was built.",
        )
        self._counted = gauge(
            "longrec_transitions_events",
            "Events that what followed what was counted from, in training and in the store's log.",
            ("counted",),
        )
        self._counts_age = gauge(
            "longrec_transitions_age_seconds",
            "How old the counts of the store's log are; -1: there are none yet.",
        )
        self._log_serves = gauge(
            "longrec_transitions_of_log",
            "1: the counts of the store's log serve; 0: training's do.",
        )
        self._keys = gauge("longrec_keys", "API keys that are known now.")
        self._key_flaws = gauge(
            "longrec_key_flaws",
            "Lines of the file of API keys that are no keys; 1 where it cannot be read.",
        )
        self._damage = gauge(
            "longrec_store_damage",
            "Damage met in the store since it was opened, each time: "
            + "; ".join(f"{kind}: {words}" for kind, words in KINDS.items())
            + ".",
            ("kind",),
        )
        self.checked_records = gauge(
            "longrec_records_looked_at",
            "Users whose records were looked at in the last round of some.",
        )
        self.lagging_records = gauge(
            "longrec_records_behind",
            "How many of these records were behind their log, or missing.",
        )

    def model(self, stream: Stream) -> None:
        """Which model is served from now on."""
        artifact, index = stream.artifact, stream.index
        self._model.info(
            {
                "name": artifact.name,
                "digest": artifact.state_digest,
                "catalog_version": artifact.catalog_version,
                "index": index.name,
            }
        )
        self._recall.set(index.recall)
        counts = stream.store.damage.counts
        for kind in KINDS:
            self._damage.labels(kind).set_function(partial(counts.__getitem__, kind))
        # Where nothing is counted too: else the model of before would be told of, and kept.
        figures = NOTHING_COUNTED.copy if stream.fresh is None else stream.fresh.figures
        training, log = (self._counted.labels(name) for name in ("training", "log"))
        training.set_function(lambda: figures()["events_of_training"])
        log.set_function(lambda: figures()["events_of_log"])
        self._counts_age.set_function(lambda: figures()["age_s"] or -1)
        self._log_serves.set_function(lambda: figures()["serves"] == "log")

    def keys(self, keys: Keys) -> None:
        """Whose keys and flaws are told."""
        self._keys.set_function(lambda: len(keys))
        self._key_flaws.set_function(lambda: keys.flaws)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request that has been answered."""
        self._requests.add(1, route, method, str(status))
        self._seconds.add(route, seconds)

    def stage(self, stage: str, seconds: float) -> None:
        """A stage of a request, or of a batch."""
        self._stages.add(stage, seconds)

    def batch(
        self, queue: str, stage: str, works: int, waited: Sequence[float], seconds: float
    ) -> None:
        """A batch that is done, and how long its works waited."""
        self._batches.add(queue, works)
        self._stages.add(stage, seconds)
        for one in waited:
            self._stages.add("queue", one)

    def watch(self, queue: str, waiting: Callable[[], int]) -> None:
        """How many wait is asked when the metrics are."""
        self._queue.labels(queue).set_function(waiting)

    def events(self, counts: Counts, refused: int) -> None:
        """What became of the events of a request."""
        for outcome, count in zip((*OUTCOMES, "refused"), (*counts, refused), strict=True):
            if count:
                self._events.add(count, outcome)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)
