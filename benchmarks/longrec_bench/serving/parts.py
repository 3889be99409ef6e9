"""Where the time of a stream's pair goes: its parts, timed one by one."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable
from itertools import cycle, islice
from time import perf_counter
from typing import Any, TypeVar

import numpy as np

from longrec.retrieval.index import row_bytes
from longrec.serving.stores.protocol import Append, Event
from longrec.serving.stream.id_keys import item_key, user_key
from longrec.serving.stream.stream import Stream
from longrec_bench.measurement import Measurement, Row
from longrec_bench.plan import PAIRS
from longrec_bench.serving.clients import K
from longrec_bench.serving.pairs import ClientPairs, median_ms

T = TypeVar("T")
PARTS = ("ids", "read", "record", "step", "commit", "read, seen items", "top-k")
"""Of a stream's pair, one after the other."""


class StreamParts(Measurement):
    """The parts of a pair of one client, on the store of its stream.

    Parameters
    ----------
    stream : whose model streams exactly.
    whole : pairs of one client of it.
    """

    def __init__(self, stream: Stream, whole: ClientPairs) -> None:
        super().__init__(whole.condition)
        self.stream, self.whole, self.users = stream, whole, whole.users
        self._rng, self._order = random.Random(4), cycle(range(len(self.users)))

    def clear(self) -> None:
        super().clear()
        self._parts = {name: array("d") for name in (*PARTS, "rank")}

    def sample(self) -> None:
        for number in islice(self._order, PAIRS):
            self._pair(*self.users.event(number, self._rng))

    def breakdown(self) -> Row:
        """Medians of each part in milliseconds, then those of the pairs that a client saw.

        "frame" is what ranking takes less than a recommendation, "rest" what the parts leave over.
        """
        whole = self.whole.breakdown()
        observe, recommend = (whole["ms"][name] for name in ("observe", "recommend"))
        ms = {name: median_ms(seconds) for name, seconds in self._parts.items()}
        rank = ms.pop("rank")
        ms |= {"frame": recommend - rank, "rest": observe + rank - sum(ms.values())}
        return whole | {"ms": ms | whole["ms"]}

    def _pair(self, user: str, item: Any, time: int) -> None:
        stream, store, engine = self.stream, self.stream.store, self.stream.engine
        key, name = self._timed("ids", lambda: (user_key(user), item_key(item)))
        index = stream.items.one(name)
        [stored] = self._timed("read", lambda: store.read(engine.digest, [(key, ())]))
        records = self._timed("record", lambda: engine.layout.load([stored.record]))
        version = int(records["version"][0])
        self._timed("step", lambda: engine.advance(records, [[(index, time)]]))
        records["version"] += 1
        append = Append(
            *(key, stored.log_id, stored.last, version, [Event(time, name, None)]),
            record=engine.dump(records, 0, key),
            seen=[index],
        )
        [done] = self._timed("commit", lambda: store.append(engine.digest, [append]))
        assert done.current, "nobody else writes to these users meanwhile"
        [stored] = self._timed(
            "read, seen items", lambda: store.read(engine.digest, [(key, ())], seen=True)
        )
        n_bytes = row_bytes(stream.index.n_items)
        seen = np.frombuffer(stored.seen.ljust(n_bytes, b"\0"), np.uint8, n_bytes)
        h = engine.read(records)
        self._timed("top-k", lambda: stream.index.search(h, K, seen[None]))
        self._timed("rank", lambda: stream.rank([user], K))

    def _timed(self, part: str, work: Callable[[], T]) -> T:
        began = perf_counter()
        done = work()
        self._parts[part].append(perf_counter() - began)
        return done
