"""What preparing a made-up log costs, by one process or by a Ray cluster of this machine.

python benchmarks/prepare_ray.py 4000000          # events: this process alone
python benchmarks/prepare_ray.py 4000000 2        # by two workers
python benchmarks/prepare_ray.py 4000000 2 800    # MiB that each may hold

Printed are seconds, seconds of processor of each stage (the workers' and this process's), the most
that a worker and this process held, and the most disk beside the log, per million events.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path

import polars as pl
import psutil

from longrec.cluster.prepare import LogWorkers
from longrec.cluster.ray_cluster import Cluster
from longrec.data.prepare import prepare
from prepare import make_log, peak_mib

FILES = 8


def make_files(folder: Path, events: int) -> None:
    """Eight files of events in random order."""
    folder.mkdir()
    make_log(f"{folder}/all.parquet", events, "integers")
    whole = pl.read_parquet(folder / "all.parquet")
    (folder / "all.parquet").unlink()
    size = -(-events // FILES)
    for number in range(FILES):
        part = whole[number * size : (number + 1) * size]
        part.write_parquet(folder / f"part-{number}.parquet")


def workers() -> list[psutil.Process]:
    """Ray's workers of this process."""
    return [p for p in psutil.Process().children(recursive=True) if p.name().startswith("ray::")]


def seconds_of_processor() -> float:
    """Of this process and its workers."""
    times = [psutil.Process().cpu_times(), *(one.cpu_times() for one in workers())]
    return sum(one.user + one.system for one in times)


def bytes_under(folder: Path) -> int:
    """On the disk now."""
    found = 0
    for path in folder.rglob("*"):
        try:
            found += path.stat().st_blocks * 512 if path.is_file() else 0
        except OSError:  # it went meanwhile
            continue
    return found


def main(events: str, processes: str = "0", limit: str = "0") -> None:
    """Measure and print."""
    count, memory = int(events), int(limit) << 20 or None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_files(folder / "log", count)
        (folder / "out").mkdir()
        many = None
        if int(processes):
            import ray

            ray.init(address="local", num_cpus=int(processes), object_store_memory=128 << 20)
            many = LogWorkers(Cluster(), memory)
        stages, last = defaultdict[str, float](float), ["", seconds_of_processor()]
        disk, done = [0], threading.Event()

        def watch() -> None:
            while not done.wait(0.5):
                disk[0] = max(disk[0], bytes_under(folder / "out"))

        def progress(words: str, share: float) -> None:
            now = seconds_of_processor()
            stages[str(last[0])] += now - float(last[1])
            last[:] = [words.partition(" part-")[0], now]

        watcher = threading.Thread(target=watch)
        watcher.start()
        began = time.perf_counter()
        histories = prepare(
            folder / "log", folder / "out" / "h", memory=memory, workers=many, progress=progress
        )
        seconds = time.perf_counter() - began
        progress("", 1.0)
        done.set()
        watcher.join()
        held = [one.memory_info().rss / 2**20 for one in workers()]
        size = histories.n_events / 1e6
        told = ", ".join(f"{word} {one / size:.2f}" for word, one in stages.items() if one > 0.05)
        print(
            f"{histories.n_events:,} events by {processes} workers: {seconds:.1f} s; seconds of "
            f"processor per million: {told}; this process {peak_mib():,.0f} MiB, a worker "
            f"{max(held, default=0):,.0f} MiB; {disk[0] / size / 1e6:.1f} MB of disk per million"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
