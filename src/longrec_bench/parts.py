"""Where the time of a pair goes: its parts timed one by one, on the same store."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable
from itertools import cycle, islice
from time import perf_counter
from typing import Any, TypeVar

import numpy as np

from longrec.retrieval.item_mask import row_bytes
from longrec.serving.stores.protocol import Append, Event, Store
from longrec.serving.stream.id_keys import item_key, user_key
from longrec.serving.stream.stream import Stream
from longrec_bench.cells import median_ms
from longrec_bench.clients import K
from longrec_bench.systems import Alone

T = TypeVar("T")
OBSERVING = ("read", "record", "step", "commit")
RANKING = ("read, seen items", "top-k")


class Parts:
    """The parts of a pair of one client, through the parts that the stream is made of.

    Parameters
    ----------
    stream : whose model streams exactly.
    store : the same, opened once more.
    whole : pairs of one client on it.
    """

    def __init__(self, stream: Stream, store: Store, whole: Alone) -> None:
        self.stream, self.store, self.whole = stream, store, whole
        self.users, self.pairs = whole.users, whole.pairs
        self._bytes = row_bytes(stream.index.n_items)
        self._rng, self._turn = random.Random(4), cycle(range(len(self.users)))
        self.clear()

    def clear(self) -> None:
        """Forget what was noted so far."""
        names = ("ids", *OBSERVING, *RANKING, "rank")
        self.seconds = {name: array("d") for name in names}

    def burst(self) -> None:
        """Time the parts of some pairs."""
        for number in islice(self._turn, self.pairs):
            self._pair(*self.users.event(number, self._rng))

    def told(self) -> dict[str, Any]:
        """The medians with the condition that they are of."""
        return {**self.whole.of, "of": "medians", "ms": self.medians()}

    def medians(self) -> dict[str, float]:
        """Median of each part in milliseconds, beside those of the pairs that a client saw.

        "rest" is what the medians of observing and ranking leave over.
        """
        found = {name: median_ms(taken) for name, taken in self.seconds.items()}
        observe, recommend = (
            median_ms(taken) for taken in (self.whole.observing, self.whole.recommending)
        )
        rank = found.pop("rank")
        told = sum(found.values())
        return {
            **found,
            "frame": recommend - rank,
            "rest": observe + rank - told,
            "observe": observe,
            "recommend": recommend,
        }

    def _pair(self, user: str, item: Any, time: int) -> None:
        store, engine = self.store, self.stream.engine
        key, name = self._timed("ids", lambda: (user_key(user), item_key(item)))
        index = self.stream.items.one(name)
        kept = self._timed("read", lambda: store.read(engine.digest, [(key, ())]))[0]
        records = self._timed("record", lambda: engine.layout.load([kept.record]))
        version = int(records["version"][0])
        self._timed("step", lambda: engine.advance(records, [[(index, time)]]))
        records["version"] += 1
        append = Append(
            *(key, kept.born, kept.last, version, [Event(time, name, None)]),
            record=engine.dump(records, 0),
            seen=[index],
        )
        [done] = self._timed("commit", lambda: store.append(engine.digest, [append]))
        assert done.current, "nobody else writes to these users meanwhile"
        seen = self._timed(
            "read, seen items", lambda: store.read(engine.digest, [(key, ())], seen=True)
        )[0].seen
        barred = np.frombuffer(seen.ljust(self._bytes, b"\0"), np.uint8, self._bytes)[None]
        h = engine.read(records)
        self._timed("top-k", lambda: self.stream.index.search(h, K, barred))
        self._timed("rank", lambda: self.stream.rank([user], K))

    def _timed(self, part: str, work: Callable[[], T]) -> T:
        began = perf_counter()
        done = work()
        self.seconds[part].append(perf_counter() - began)
        return done
