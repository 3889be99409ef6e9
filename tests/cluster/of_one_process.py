"""A cluster that is this process: what workers are given and give back is pickled, as by Ray."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from longrec.cluster.ray_cluster import Cluster


class Here(Cluster):
    def __init__(self) -> None:
        self.slots, self.beside = 3, 1

    def run(
        self,
        function: Callable[..., Any],
        calls: Iterable[tuple[Any, ...]],
        done: Callable[[int], None] | None = None,
    ) -> Iterator[Any]:
        for call in calls:
            yield pickle.loads(pickle.dumps(function(*pickle.loads(pickle.dumps(call)))))
