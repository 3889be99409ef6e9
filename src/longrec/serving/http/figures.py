"""Counts and times that many requests add to, each in a fraction of a microsecond.

The metrics of prometheus_client take a lock and some microseconds each time, which is more than all
else that is done for a request but its work. These belong to the event loop's thread: they are
plain numbers, which prometheus_client asks for when somebody reads the metrics.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector


class Count(Collector):
    """How often something happened, by labels.

    Parameters
    ----------
    registry : where it is told.
    name, words : of the metric, and what it is.
    labels : names of its labels.
    known : values of labels that are told before anything happened.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        name: str,
        words: str,
        labels: Sequence[str],
        known: Iterable[tuple[str, ...]] = (),
    ) -> None:
        self._told = name, words, labels
        self._counts: dict[tuple[str, ...], int] = dict.fromkeys(known, 0)
        registry.register(self)

    def add(self, number: int, *labels: str) -> None:
        """So many more; the labels' values in their order."""
        self._counts[labels] = self._counts.get(labels, 0) + number

    def collect(self) -> Iterable[CounterMetricFamily]:
        name, words, labels = self._told
        family = CounterMetricFamily(name, words, labels=labels)
        for values, count in list(self._counts.items()):
            family.add_metric(values, count)
        yield family


class Sizes(Collector):
    """How large something was each time, by one label: how often up to each bound, and the sum.

    Parameters
    ----------
    registry, name, words : as of `Count`.
    label : its name.
    bounds : ascending.
    known : values of the label that are told before anything happened.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        name: str,
        words: str,
        label: str,
        bounds: Sequence[float],
        known: Iterable[str] = (),
    ) -> None:
        self._told, self._bounds = (name, words, label), bounds
        self._counts = {value: self._none() for value in known}
        self._sums = dict.fromkeys(self._counts, 0.0)
        registry.register(self)

    def _none(self) -> list[int]:
        return [0] * (len(self._bounds) + 1)

    def add(self, value: str, size: float) -> None:
        """One more, with a value of the label."""
        counts = self._counts.get(value)
        if counts is None:
            counts, self._sums[value] = self._none(), 0.0
            self._counts[value] = counts
        counts[bisect_left(self._bounds, size)] += 1
        self._sums[value] += size

    def collect(self) -> Iterable[HistogramMetricFamily]:
        name, words, label = self._told
        family = HistogramMetricFamily(name, words, labels=[label])
        bounds = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        for value, counts in list(self._counts.items()):
            buckets = list(zip(bounds, accumulate(counts), strict=True))
            family.add_metric([value], buckets, self._sums[value])
        yield family
