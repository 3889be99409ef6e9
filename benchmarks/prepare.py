"""Time reading a log to histories, and its peak memory: of a file, or of made-up events.

python benchmarks/prepare.py LOG
python benchmarks/prepare.py 30000000 integers        # or text: the kind of ids
python benchmarks/prepare.py 30000000 integers 1000   # MiB that the process may take
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from longrec.data.prepare import prepare


def make_log(path: str, events: int, kind: str) -> None:
    """Write events in random order: a tenth as many users, a hundredth as many items."""
    random = np.random.default_rng(0)
    log = pl.DataFrame(
        {
            "user_id": random.integers(0, events // 10, events),
            "item_id": random.integers(0, events // 100, events),
            "timestamp": random.integers(1_500_000_000, 1_700_000_000, events),
        }
    )
    if kind == "text":
        log = log.with_columns(
            pl.format("user-{}", "user_id").alias("user_id"),
            pl.format("item-{}", "item_id").alias("item_id"),
        )
    log.write_parquet(path)


def peak_mib() -> float:
    """Most memory that this process held, in MiB (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(next(s for s in status.splitlines() if s.startswith("VmHWM")).split()[1]) / 1024


def main(log: str, kind: str = "integers", limit: str = "0") -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        if log.isdigit():
            # In a process of its own, so that the peak is that of preparing alone.
            events, log = int(log), f"{folder}/log.parquet"
            maker = multiprocessing.get_context("spawn").Process(
                target=make_log, args=(log, events, kind)
            )
            maker.start()
            maker.join()
        before, began = peak_mib(), time.perf_counter()
        worked, memory = time.process_time(), int(limit) << 20 or None
        histories = prepare(log, Path(folder) / "histories", memory=memory)
        seconds, peak = time.perf_counter() - began, peak_mib()
        worked = time.process_time() - worked
    size = histories.n_events
    print(
        f"{size:,} events: {seconds:.1f} s ({worked:.1f} of processor), "
        f"peak {peak:.0f} MiB ({before:.0f} of them before), "
        f"{(peak - before) * 2**20 / size:.0f} bytes per event"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
