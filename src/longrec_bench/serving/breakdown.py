"""Where the time of a pair goes: the parts of a stream's pair, and a server's stages."""

from __future__ import annotations

import random
import time
from array import array
from collections import defaultdict
from collections.abc import Callable
from itertools import cycle, islice
from time import perf_counter
from typing import Any, TypeVar

import numpy as np

from longrec.retrieval.index import row_bytes
from longrec.serving.stores.protocol import Append, Event, Store
from longrec.serving.stream.id_keys import item_key, user_key
from longrec.serving.stream.stream import Stream
from longrec_bench.measurement import Measurement, Row, median_ms
from longrec_bench.serving.clients import HttpClient, K
from longrec_bench.serving.pairs import Pairs
from longrec_bench.serving.plan import PAIRS

T = TypeVar("T")
STAGES = ("parse", "queue", "log", "rank", "reply")
"""Of a request, as the server's metrics name them."""
ROUTES = ("/v1/events", "/v1/recommendations")
PARTS = ("ids", "read", "record", "step", "commit", "read, seen items", "top-k")
"""Of a stream's pair, one after the other."""


class StreamParts(Measurement):
    """The parts of a pair of one client, timed one by one on the same store.

    Parameters
    ----------
    stream : whose model streams exactly.
    store : of the same users, opened a second time.
    whole : pairs of one client on it.
    """

    def __init__(self, stream: Stream, store: Store, whole: Pairs) -> None:
        super().__init__(whole.condition)
        self.stream, self.store, self.whole, self.users = stream, store, whole, whole.users
        self._seen_bytes = row_bytes(stream.index.n_items)
        self._rng, self._order = random.Random(4), cycle(range(len(self.users)))

    def clear(self) -> None:
        super().clear()
        self._parts = {name: array("d") for name in (*PARTS, "rank")}

    def sample(self) -> None:
        for number in islice(self._order, PAIRS):
            self._pair(*self.users.event(number, self._rng))

    def row(self) -> Row:
        """Medians of each part in milliseconds, beside those of the pairs that a client saw.

        "frame" is what ranking takes less than a recommendation, "rest" what the parts leave over.
        """
        ms = {name: median_ms(seconds) for name, seconds in self._parts.items()}
        observe, recommend = median_ms(self.whole.observing), median_ms(self.whole.recommending)
        rank = ms.pop("rank")
        ms |= {"frame": recommend - rank, "rest": observe + rank - sum(ms.values())}
        ms |= {"observe": observe, "recommend": recommend}
        return {**self.condition, "of": "medians", "ms": ms}

    def _pair(self, user: str, item: Any, time: int) -> None:
        store, engine = self.store, self.stream.engine
        key, name = self._timed("ids", lambda: (user_key(user), item_key(item)))
        index = self.stream.items.one(name)
        stored = self._timed("read", lambda: store.read(engine.digest, [(key, ())]))[0]
        records = self._timed("record", lambda: engine.layout.load([stored.record]))
        version = int(records["version"][0])
        self._timed("step", lambda: engine.advance(records, [[(index, time)]]))
        records["version"] += 1
        append = Append(
            *(key, stored.log_id, stored.last, version, [Event(time, name, None)]),
            record=engine.dump(records, 0),
            seen=[index],
        )
        [done] = self._timed("commit", lambda: store.append(engine.digest, [append]))
        assert done.current, "nobody else writes to these users meanwhile"
        seen = self._timed(
            "read, seen items", lambda: store.read(engine.digest, [(key, ())], seen=True)
        )[0].seen
        bits = np.frombuffer(seen.ljust(self._seen_bytes, b"\0"), np.uint8, self._seen_bytes)
        h = engine.read(records)
        self._timed("top-k", lambda: self.stream.index.search(h, K, bits[None]))
        self._timed("rank", lambda: self.stream.rank([user], K))

    def _timed(self, part: str, work: Callable[[], T]) -> T:
        began = perf_counter()
        done = work()
        self._parts[part].append(perf_counter() - began)
        return done


class HttpPairs(Pairs):
    """Pairs of one client over HTTP, and what the server's metrics say of just these."""

    client: HttpClient

    def ask(self) -> None:
        before, processor = self.client.metrics, time.process_time()
        super().ask()
        self._totals["client's processor"] += time.process_time() - processor
        after = self.client.read_metrics()
        for stage in STAGES:
            name = f'longrec_stage_seconds_sum{{stage="{stage}"}}'
            self._totals[stage] += after[name] - before.get(name, 0.0)
        for route in ROUTES:
            name = f'longrec_request_seconds_sum{{route="{route}"}}'
            self._totals["server"] += after[name] - before.get(name, 0.0)

    def clear(self) -> None:
        super().clear()
        self._totals: defaultdict[str, float] = defaultdict(float)

    def breakdown(self) -> Row:
        """Mean of each stage in milliseconds per pair, which is two requests.

        "server, rest" is what the stages leave of the server's own time, "sockets and client" what
        that leaves of the pair; "client's processor" is a part of the latter.
        """
        ms = {name: 1e3 * seconds / len(self.seconds) for name, seconds in self._totals.items()}
        pair, server = 1e3 * self.wall() / len(self.seconds), ms["server"]
        stages = {stage: ms[stage] for stage in STAGES}
        rest = {
            "server, rest": server - sum(stages.values()),
            "sockets and client": pair - server,
            "pair": pair,
            "client's processor": ms["client's processor"],
        }
        return {**self.condition, "of": "means", "ms": stages | rest}
