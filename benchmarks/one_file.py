"""What a log in one file costs workers, read as a whole or in pieces.

python benchmarks/one_file.py 4000000 parquet      # or csv, jsonl: events, and the kind of file
python benchmarks/one_file.py 4000000 csv 16       # for so many processes

The calls that workers would make are made by this process, one after the other. Printed are seconds
of processor: of all calls of a kind, of the longest of them, and of the command itself; and what
bounds the whole with so many processes, each on a core of its own.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from longrec.cluster import portions
from longrec.cluster.prepare import LogWorkers
from longrec.cluster.ray_cluster import Cluster
from longrec.data.prepare import prepare
from prepare import make_log


class Timed(Cluster):
    """Makes the calls of some processes here, and notes what each takes."""

    def __init__(self, processes: int) -> None:
        self.slots = self.beside = processes
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def run(
        self,
        function: Callable[..., Any],
        calls: Iterable[tuple[Any, ...]],
        done: Callable[[int], None] | None = None,
    ) -> Iterator[Any]:
        """See `Cluster`."""
        for call in calls:
            began = time.process_time()
            found = function(*call)
            self.seconds[function.__name__].append(time.process_time() - began)
            yield found

    def bound(self, name: str) -> float:
        """Seconds that calls of a name take at least: the longest, or a fair part of all."""
        return max(*self.seconds[name], sum(self.seconds[name]) / self.slots)


def make_file(folder: Path, events: int, kind: str) -> Path:
    """Events in random order, in one file."""
    whole = folder / "log.parquet"
    make_log(str(whole), events, "integers")
    if kind == "parquet":
        return whole
    frame = pl.scan_parquet(whole)
    path = folder / f"log.{kind}"
    frame.sink_csv(path) if kind == "csv" else frame.sink_ndjson(path)
    return path


def main(events: str, kind: str, processes: str = "16") -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        path = make_file(Path(name), int(events), kind)
        size = path.stat().st_size / 2**20
        sizes = portions.MOST, portions.LEAST
        for cut in (False, True):
            portions.MOST, portions.LEAST = sizes if cut else (portions.PART, portions.PART)
            timed = Timed(int(processes))
            own = time.process_time()
            workers = LogWorkers(timed, 4 << 30)
            prepare(path, Path(name) / "out", overwrite=True, workers=workers, memory=4 << 30)
            own = time.process_time() - own - sum(map(sum, timed.seconds.values()))
            told = [
                f"{one}: {len(found)} calls, {sum(found):.2f} s, the longest {max(found):.2f} s"
                for one, found in timed.seconds.items()
            ]
            path_of_all = own + sum(map(timed.bound, timed.seconds))
            how = "in pieces" if cut else "whole"
            print(f"{kind} of {size:,.0f} MiB, {how}: {'; '.join(told)}; the command {own:.2f} s")
            print(f"  at least {path_of_all:.2f} s on {processes} processes")


if __name__ == "__main__":
    main(*sys.argv[1:])
