"""Machines, memory, disk and money for so many users, and whether the replicas hold at the peak.

    python benchmarks/cost_of_users.py [--events 20] [--peak 3] [--busy 0.5]

Every number below that was measured has its source beside it; prices and habits are assumptions:
put in your own. Replicas are counted so that at the peak each is busy for a share `--busy` of the
time. That this suffices is checked by a simulation: events come at random (Poisson), each goes to
any replica, and waits there for those before it. Service times are as they were measured: most
near the median, one in a hundred at the p99.
"""

from __future__ import annotations

import argparse
import math
from typing import NamedTuple

import numpy as np


class Model(NamedTuple):
    """What a user takes with 100 events, in bytes (docs/streaming.md, Sizing)."""

    name: str
    lmdb: int
    redis: int


MODELS = (
    Model("elastic, width 64", 25_164, 27_300),
    Model("hydrarec, width 64", 8_780, 11_100),
)
GROWN = 1.7
"""Of a store that is written to, over a compacted one (docs/streaming.md, Sizing)."""
PAIR = 2.0e-3, 6.0e-3
"""Seconds of an event and a recommendation over HTTP in one process, median and p99, on a machine
with nothing else to do (benchmarks/serve.md)."""
REPLICA = 0.8
"""GB of memory of one process, and a catalog of 3,400 items (docs/serving.md, Sizing)."""
CORE, MEMORY, DISK = 25.0, 3.5, 0.1
"""Assumed prices of a month, in dollars: of a core, of a GB of memory, of a GB of disk."""
REDIS_HOLDS, LMDB_HOLDS = 100, 1000
"""GB that one store is let grow to: what a machine has, less what a copy takes."""
SIMULATED = 200_000
"""Events of one simulation."""


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=float, default=20.0, help="of a user in a day")
    parser.add_argument("--peak", type=float, default=3.0, help="the busiest second over the mean")
    parser.add_argument(
        "--busy", type=float, default=0.5, help="share of a replica's time, at most"
    )
    given = parser.parse_args()
    mean = service_times(np.random.default_rng(0), 10**6).mean()
    print(
        "| users | model | events per second, mean and peak | replicas | stores | memory, GB "
        "| disk, GB | dollars a month | per 1,000 users |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for users in (10**6, 10**8, 10**9):
        for model in MODELS:
            rate = users * given.events / 86_400
            replicas = math.ceil(rate * given.peak * mean / given.busy)
            for kind in ("Redis", "LMDB"):
                print(row(users, model, kind, rate, rate * given.peak, replicas))
    print("\n| replicas | share of the time busy | waiting and answering, p50 | p99 |")
    print("|---|---|---|---|")
    for replicas in (2, 20, 200):
        for busy in (given.busy, 0.7, 0.9):
            p50, p99 = 1000 * np.percentile(simulated(replicas, busy), [50, 99])
            print(f"| {replicas} | {busy:.2f} | {p50:.1f} ms | {p99:.1f} ms |")


def row(users: int, model: Model, kind: str, rate: float, peak: float, replicas: int) -> str:
    """One row: with Redis replicas share stores; with LMDB each has its own users."""
    if kind == "Redis":
        kept = users * model.redis / 1e9
        stores = math.ceil(kept / REDIS_HOLDS)
        memory, disk, cores = kept + replicas * REPLICA, 2 * kept, replicas + stores
    else:
        disk = users * model.lmdb * GROWN / 1e9
        stores = replicas = max(replicas, math.ceil(disk / LMDB_HOLDS))
        memory, cores = replicas * REPLICA, replicas
    money = cores * CORE + memory * MEMORY + disk * DISK
    return (
        f"| {users:,} | {model.name}, {kind} | {rate:,.0f}, {peak:,.0f} | {replicas:,} "
        f"| {stores:,} | {memory:,.0f} | {disk:,.0f} | {money:,.0f} "
        f"| {1000 * money / users:.2f} |"
    )


def service_times(random: np.random.Generator, n: int) -> np.ndarray:
    """Seconds (n,): log-normal, with the measured median and p99."""
    median, p99 = PAIR
    spread = math.log(p99 / median) / 2.326
    return random.lognormal(math.log(median), spread, n)


def simulated(replicas: int, busy: float) -> np.ndarray:
    """Seconds from asking to the answer, of events that go to any of the replicas."""
    random = np.random.default_rng(replicas)
    served = service_times(random, SIMULATED)
    came = random.exponential(served.mean() / (busy * replicas), SIMULATED).cumsum()
    free = np.zeros(replicas)
    took = np.empty(SIMULATED)
    for number, where in enumerate(random.integers(replicas, size=SIMULATED)):
        begun = max(came[number], free[where])
        free[where] = begun + served[number]
        took[number] = free[where] - came[number]
    return took[SIMULATED // 10 :]  # once the replicas are as busy as they will be


if __name__ == "__main__":
    main()
