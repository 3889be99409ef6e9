"""What preparing a made-up log costs, by one process or by a Ray cluster of this machine.

python benchmarks/prepare_ray.py 4000000          # events: this process alone
python benchmarks/prepare_ray.py 4000000 2        # by two workers
python benchmarks/prepare_ray.py 4000000 2 800    # MiB that each may hold

Printed are seconds, seconds of processor of this process and of the workers, what each holds, and
the most disk beside the log, per million events.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
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


def seconds_of_workers() -> float:
    """Seconds of processor that they have taken."""
    times = [one.cpu_times() for one in workers()]
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
        disk, done = [0], threading.Event()

        def watch() -> None:
            while not done.wait(0.5):
                disk[0] = max(disk[0], bytes_under(folder / "out"))

        watcher = threading.Thread(target=watch)
        watcher.start()
        began, own, before = time.perf_counter(), time.process_time(), seconds_of_workers()
        histories = prepare(folder / "log", folder / "out" / "h", memory=memory, workers=many)
        seconds, own = time.perf_counter() - began, time.process_time() - own
        others = seconds_of_workers() - before
        done.set()
        watcher.join()
        held = [one.memory_info().rss / 2**20 for one in workers()]
        size = histories.n_events / 1e6
        print(
            f"{histories.n_events:,} events by {processes} workers: {seconds:.1f} s; seconds of "
            f"processor per million: {own / size:.2f} of this process, {others / size:.2f} of "
            f"workers; this process {peak_mib():,.0f} MiB, a worker {max(held, default=0):,.0f} "
            f"MiB; {disk[0] / size / 1e6:.1f} MB of disk per million"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
