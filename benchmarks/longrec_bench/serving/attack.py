"""How much longer an innocent client waits beside hostile ones: `longrec bench serve --attack`."""

from __future__ import annotations

import json
import random
import subprocess
import time
from array import array
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from time import perf_counter

import numpy as np
import psutil

from longrec.core.child import start_child, stop_child
from longrec.core.errors import LongrecError, UsageError
from longrec.core.threads import usable_cores
from longrec.recommender import Recommender
from longrec_bench.measurement import Progress, Row, describe_start
from longrec_bench.plan import Plan
from longrec_bench.serving.clients import HttpClient, Server
from longrec_bench.serving.hostile import KINDS
from longrec_bench.serving.users import Users, write_users
from longrec_bench.serving.workspace import make_workspace, one_core

CONNECTIONS = 4
"""Hostile connections at once."""
GOAL = 2.0
"""How many times as long as without them the innocent client's 99th percentile may be."""
HISTORY = 100
"""Events of each innocent user at the beginning."""
THINKS = 0.005
"""Seconds between two pairs of the innocent client."""
SETTLED, GROWTH = 5000, 50.0
"""Mixed requests after which memory is expected to have settled, and MiB it may grow from then."""
START = 1.0
"""Seconds that hostile clients get to begin."""
CALM = 12.0
"""Seconds after mixed requests until memory is looked at: a server gives back what they freed."""
PATIENCE = 3600.0
"""Seconds that mixed requests may take."""


@dataclass(frozen=True, kw_only=True)
class AttackPlan(Plan):
    """What `longrec bench serve --attack` measures.

    Attributes
    ----------
    kinds : names of hostile clients, see `KINDS`.
    rounds : in each of which every kind has its turn, quiet and attacked.
    seconds : in all for each kind, quiet as well as attacked.
    mixed : requests drawn at random from all that can be asked, around which memory is measured.
    """

    kinds: tuple[str, ...] = tuple(KINDS)
    rounds: int = 3
    seconds: float = 9.0
    mixed: int = 30_000

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("kinds", choices=tuple(KINDS))
        self._check_positive("seconds")
        if self.mixed and self.mixed <= SETTLED:
            raise UsageError(f"mixed is {self.mixed}; it must be 0 or more than {SETTLED:,}")


def bench_attack(
    recommender: Recommender, plan: AttackPlan, folder: Path, progress: Progress
) -> Row:
    """Measure an innocent client's pairs of an event and a recommendation, quiet and attacked.

    Each kind's quiet pairs are measured right before and after its attacks, since a machine is not
    the same all day.

    Parameters
    ----------
    recommender : that is served, saved or not.
    plan : what is measured.
    folder : where the store is made and removed again.
    progress : called with (done, of all, what is done now).

    Returns
    -------
    dict
        Plain values: "cells", a row for each kind ("kind", "does", percentiles, "ratio" of p99,
        "answers" to the hostile clients), "memory" (of mixed requests, or None), "goals", and how
        and where it was measured, as of `bench_serving`.
    """
    found = describe_start("lmdb")
    cores = usable_cores()
    with one_core() as core, make_workspace(folder) as workspace:
        run = recommender.folder
        if run is None:
            run = workspace.folder / "run"
            recommender.save(run)
        users = Users(HISTORY, recommender.catalog, plan.seed)
        histories = write_users([users], recommender.catalog, workspace.folder / "histories")
        url = workspace.url("users")
        with recommender.open_stream(url, "process") as stream:
            stream.rebuild(histories)
        log = workspace.folder / "server.log"
        with Server(run, url, "process", log, cores, recommender.plugins) as server:
            server.wait()
            cells = _attacks(server, users, plan, progress)
            memory = _mixed(server, plan.mixed, progress) if plan.mixed else None
        found["machine"] |= workspace.describe() | {
            "cores_used": len(cores),
            "pinned": core is not None,
            "sync_ms": None,
        }
    return found | {
        "cells": cells,
        "memory": memory,
        "goals": _goals(cells, memory),
        "method": [
            "A pair is an event of a user, then ten items for that user, by one client, "
            f"{1e3 * THINKS:g} ms after the pair before; users begin with {HISTORY} events.",
            f"Each kind has {CONNECTIONS} hostile connections of a process of its own, on this "
            "machine: what they compute is taken from the server.",
            f"{plan.rounds} rounds; {plan.seconds:g} s for each kind attacked, and as long quiet.",
        ],
    }


class _Innocent:
    """A client who asks for pairs, and how long each took."""

    def __init__(self, client: HttpClient, users: Users) -> None:
        self._client, self._users = client, users
        self._rng, self._order = random.Random(1), cycle(range(len(users)))

    def ask(self, seconds: float) -> array[float]:
        """Pairs for so long, each in seconds."""
        taken, end = array("d"), perf_counter() + seconds
        while (began := perf_counter()) < end:
            event = self._users.event(next(self._order), self._rng)
            self._client.observe(*event)
            self._client.recommend(event[0])
            taken.append(perf_counter() - began)
            time.sleep(THINKS)
        return taken


def _attacks(server: Server, users: Users, plan: AttackPlan, progress: Progress) -> list[Row]:
    quiet = {name: array("d") for name in plan.kinds}
    attacked = {name: array("d") for name in plan.kinds}
    answers: dict[str, dict[str, int]] = {name: {} for name in plan.kinds}
    span = plan.seconds / plan.rounds
    with closing(server.client()) as client:
        client.connect()
        innocent = _Innocent(client, users)
        innocent.ask(min(span, 1.0))
        for number in range(plan.rounds):
            for place, name in enumerate(plan.kinds):
                progress(number + place / len(plan.kinds), plan.rounds, name)
                quiet[name].extend(innocent.ask(span / 2))
                attackers = _Attackers(server, name)
                try:
                    time.sleep(min(START, span))
                    attacked[name].extend(innocent.ask(span))
                finally:
                    for status, count in attackers.end().items():
                        answers[name][status] = answers[name].get(status, 0) + count
                quiet[name].extend(innocent.ask(span / 2))
    return [_row(name, quiet[name], attacked[name], answers[name]) for name in plan.kinds]


class _Attackers:
    """Hostile clients of one kind, in a process of their own."""

    def __init__(self, server: Server, kind: str, most: int | None = None) -> None:
        host, port = server.address
        arguments = [
            host,
            str(port),
            kind,
            str(CONNECTIONS),
            *([] if most is None else [str(most)]),
        ]
        self._process = start_child(
            "longrec_bench.serving.hostile",
            arguments,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def end(self) -> dict[str, int]:
        """Let them end; -> answers by status."""
        try:
            out, _ = self._process.communicate(timeout=PATIENCE if self.ended else 30)
        except subprocess.TimeoutExpired as error:
            raise LongrecError("the hostile clients do not end") from error
        finally:
            stop_child(self._process, 5)
        found: dict[str, int] = json.loads(out or "{}")
        return found


def _row(name: str, quiet: Sequence[float], attacked: Sequence[float], answers: Row) -> Row:
    row: Row = {"kind": name, "does": KINDS[name].does}
    for words, seconds in (("quiet", quiet), ("attacked", attacked)):
        p50, p99 = 1e3 * np.percentile(seconds, (50, 99))
        row |= {f"{words}_pairs": len(seconds), f"{words}_p50_ms": float(p50)}
        row |= {f"{words}_p99_ms": float(p99)}
    ratio = row["attacked_p99_ms"] / row["quiet_p99_ms"]
    return row | {"ratio": ratio, "answers": dict(sorted(answers.items()))}


def _mixed(server: Server, requests: int, progress: Progress) -> Row:
    """The server's own memory after some thousand mixed requests, and after all of them; and pages
    of files that count as its memory."""
    process, answers = psutil.Process(server.pid), dict[str, int]()
    found: Row = {"requests": requests}
    for name, count in (("settled", SETTLED), ("end", requests - SETTLED)):
        progress(0, 1, f"{count:,} mixed requests")
        attackers = _Attackers(server, "mixed", count)
        while not attackers.ended:
            time.sleep(0.2)
        for status, number in attackers.end().items():
            answers[status] = answers.get(status, 0) + number
        time.sleep(CALM)
        memory = process.memory_info()
        of_files = getattr(memory, "shared", 0)  # pages that the system may take back
        found[f"{name}_mib"] = (memory.rss - of_files) / 2**20
        found[f"{name}_files_mib"] = of_files / 2**20
    found["growth_mib"] = found["end_mib"] - found["settled_mib"]
    return found | {"answers": dict(sorted(answers.items()))}


def _goals(cells: Sequence[Row], memory: Row | None) -> list[Row]:
    worst = max(cells, key=lambda row: float(row["ratio"]))
    goals = [
        {
            "goal": f"p99 beside {CONNECTIONS} hostile connections at most {GOAL:g} times as long",
            "figure": worst["ratio"],
            "at": worst["kind"],
            "met": worst["ratio"] <= GOAL,
        }
    ]
    if memory is not None:
        goals.append(
            {
                "goal": f"memory of its own grows by less than {GROWTH:g} MiB from request "
                f"{SETTLED:,} on",
                "figure": memory["growth_mib"],
                "at": f"{memory['requests']:,} requests",
                "met": memory["growth_mib"] < GROWTH,
            }
        )
    return goals
