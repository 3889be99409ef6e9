"""Serve a run over HTTP with the exact index: its start, its memory, and pairs one after the other.

    python benchmarks/xlong_serve.py FOLDER [--users 200] [--pairs 300]

FOLDER is that of `benchmarks/xlong.py`. Users of its log are put in by their own events, a request
for each thousand; then one client has pairs answered, an event and the recommendation after it,
with a store that is synced. Prints JSON: seconds until the service is ready, events that it takes
in per second, milliseconds of a pair as the client sees it (p50, p99) and of the server's
processor, and the most that the server had resident in MiB, mapped files included.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import longrec
from longrec_bench.serving.clients import HttpClient, Server

AT_ONCE = 1000
"""Events of a request."""


def measure(folder: Path, users: int, pairs: int) -> dict[str, Any]:
    """Start, fill, ask."""
    histories = longrec.open_histories(folder / "some-histories")
    ids, rng = histories.catalog.ids, random.Random(0)
    names = histories.user_ids.to_list()[:users]
    with tempfile.TemporaryDirectory(dir=folder) as place:
        log, further = Path(place) / "log", ("--index", "exact")
        began = time.perf_counter()
        with Server(
            folder / "elastic", f"lmdb://{place}/users", "power", log, set(), further=further
        ) as server:
            server.wait()
            ready = time.perf_counter() - began
            process, client = psutil.Process(server.pid), server.client()
            client.connect()
            began, sent = time.perf_counter(), 0
            for number, name in enumerate(names):
                low, high = histories.offsets[number : number + 2]
                items = ids.gather(histories.items[low:high] - 1).to_list()
                sent += fill(client, str(name), items, histories.times[low:high].tolist())
            filling = time.perf_counter() - began
            clock = int(histories.times.max()) + 1
            worked, taken = processor(process), []
            for number in range(pairs):
                name = str(rng.choice(names))
                began = time.perf_counter()
                client.observe(name, ids[rng.randrange(len(ids))], clock + number)
                client.recommend(name)
                taken.append(time.perf_counter() - began)
            worked = processor(process) - worked
            status = Path(f"/proc/{server.pid}/status").read_text().split()
    return {
        "start_seconds": ready,
        "events_per_second": sent / filling,
        "p50_ms": 1e3 * float(np.quantile(taken, 0.5)),
        "p99_ms": 1e3 * float(np.quantile(taken, 0.99)),
        "processor_ms": 1e3 * worked / pairs,
        "server_mib": int(status[status.index("VmHWM:") + 1]) / 1024,
        "users": len(names),
        "pairs": pairs,
    }


def fill(client: HttpClient, user: str, items: list[Any], times: list[int]) -> int:
    """Put a user's events in; how many."""
    events = [
        {"user": user, "item": item, "time": when} for item, when in zip(items, times, strict=True)
    ]
    for start in range(0, len(events), AT_ONCE):
        client.send(events[start : start + AT_ONCE])
    return len(events)


def processor(process: psutil.Process) -> float:
    """Seconds that a process computed."""
    spent = process.cpu_times()
    return spent.user + spent.system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=300)
    given = parser.parse_args()
    found = measure(given.folder, given.users, given.pairs)
    print(json.dumps({name: round(x, 2) for name, x in found.items()}, indent=1))


if __name__ == "__main__":
    main()
