"""Where the time of a pair over HTTP goes: what the server tells of its stages, and the rest."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

from longrec_bench.cells import Cell
from longrec_bench.clients import Connection
from longrec_bench.systems import Alone
from longrec_bench.users import Users

STAGES = ("parse", "queue", "log", "rank", "reply")
ROUTES = ("/v1/events", "/v1/recommendations")


class Served(Alone):
    """Pairs of one client over HTTP, and what the server's metrics say of just these."""

    client: Connection

    def __init__(self, client: Connection, users: Users, of: Cell, pairs: int) -> None:
        super().__init__(client, users, of, pairs)
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def ask(self) -> None:
        before, processor = self.client.metrics, time.process_time()
        super().ask()
        self._seconds["client's processor"] += time.process_time() - processor
        after = self.client.ask_metrics()
        for stage in STAGES:
            name = f'longrec_stage_seconds_sum{{stage="{stage}"}}'
            self._seconds[stage] += after[name] - before.get(name, 0.0)
        for route in ROUTES:
            name = f'longrec_request_seconds_sum{{route="{route}"}}'
            self._seconds["server"] += after[name] - before.get(name, 0.0)

    def clear(self) -> None:
        super().clear()
        self._seconds = defaultdict(float)

    def told(self) -> dict[str, Any]:
        """The means with the condition that they are of."""
        return {**self.of, "of": "means", "ms": self.means()}

    def means(self) -> dict[str, float]:
        """Mean of each stage in milliseconds per pair, which is two requests.

        "server, rest" is what the stages leave of the server's own time, "sockets and client" what
        that leaves of the pair; "client's processor" is a part of the latter.
        """
        pairs = len(self.seconds)
        ms = {name: 1e3 * taken / pairs for name, taken in self._seconds.items()}
        pair, server = 1e3 * self.wall / pairs, ms["server"]
        stages = {stage: ms[stage] for stage in STAGES}
        return {
            **stages,
            "server, rest": server - sum(stages.values()),
            "sockets and client": pair - server,
            "pair": pair,
            "client's processor": ms["client's processor"],
        }
