"""Turns of cells in processes of their own, interleaved; what would not fit is skipped."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from longrec_bench.cells import Cell
from longrec_bench.cost.analysis import AGAINST
from longrec_bench.cost.plan import TARGETS, CostPlan
from longrec_bench.cost.processes import Processes
from longrec_bench.cost.subjects import Task, powers
from longrec_bench.machine import usable_cores
from longrec_bench.turns import Progress

MOST, MOST_STEPS, SHARE = 20, 200, 0.02
"""Timed passes in a turn, and steps; a turn times no more once they took this share of the cap."""
ENOUGH = 4.0
"""Caps that the turns of a cell may take together; it gets no further turn then, but has two."""
GRACE = 60.0
"""Seconds that a turn has besides three caps: for its setup, the first pass and a timed one."""
SPARE = 0.8
"""Of the available memory that a pass may be predicted to need."""


class Measuring:
    """One cell on its way: its turns so far."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.seconds: list[float] = []
        self.peaks: list[int] = []
        self.operations: int | None = None
        self.processor, self.spent = 0.0, 0.0
        self.turns = 0
        self.failed: str | None = None

    def add(self, answer: dict[str, Any]) -> None:
        """Note a turn."""
        self.turns += 1
        if "failed" in answer:
            self.failed = answer["failed"]
            return
        self.seconds += answer["seconds"]
        self.processor += answer["processor"]
        if answer["peak_bytes"] is not None:
            self.peaks.append(answer["peak_bytes"])
        self.operations = answer["operations"] or self.operations
        self.spent += sum(answer["seconds"]) + median(answer["seconds"]) + answer["setup"]

    def cell(self, threads: int) -> Cell:
        """The figures of all turns, at least one of which was well: of readers per history."""
        task, middle = dict(self.task), median(self.seconds)
        kind, name, batch = task.pop("kind"), task.pop("name"), task.pop("batch")
        events = batch * (1 if task["pass"] == "step" else task["length"])
        each = batch if kind in AGAINST else 1  # figures per history
        return {
            kind: name,
            **task,
            "seconds_median": middle / each,
            "seconds_min": min(self.seconds) / each,
            "seconds_max": max(self.seconds) / each,
            "peak_bytes": round(median(self.peaks) / each) if self.peaks else None,
            "batch": batch,
            "threads": threads,
            "repeats": len(self.seconds),
            "events_per_second": events / middle,
            "processor_share": self.processor / sum(self.seconds) / threads,
            "operations": None if self.operations is None else self.operations // each,
        }


class Turns:
    """Measures the groups of a plan and keeps what was found.

    Attributes
    ----------
    cells : of all that was measured.
    skipped : what was not, as {"mixer": name, "length": …, "pass": …, "why": …}.
    """

    def __init__(self, plan: CostPlan, processes: Processes, tell: Progress) -> None:
        self.plan, self.processes, self.tell = plan, processes, tell
        self.cells: list[Cell] = []
        self.skipped: list[dict[str, Any]] = []
        self._past: dict[tuple[str, ...], list[Measuring]] = {}
        self._random = random.Random(plan.seed)
        self._always = {
            "cores": sorted(usable_cores())[-plan.threads :],
            "threads": plan.threads,
            "seed": plan.seed,
            "share": SHARE * plan.cap,
            "limit": 3 * plan.cap + GRACE,
        }

    def rates(self) -> dict[str, float]:
        """The machine's rates, the best of as many turns as cells have."""
        found: dict[str, float] = {}
        task = {"kind": "machine", **self._always}
        for _ in range(self.plan.rounds):
            for key, rate in self.processes.measure(task).items():
                found[key] = max(rate, found.get(key, 0.0))
        return found

    def take(self) -> None:
        """Let all groups of the plan have their turns, one group after the other."""
        groups = [list(group) for group in self.plan.groups()]
        total = sum(map(len, groups)) * self.plan.rounds
        done = 0
        for group in groups:
            cells = [one for task in group if (one := self._entered(task)) is not None]
            for number in range(self.plan.rounds):
                for place, one in enumerate(self._random.sample(cells, len(cells))):
                    here = done + number * len(group) + place
                    self.tell(here, total, f"{one.task['name']}, {size_of(one.task):,}")
                    self._turn(one)
            done += self.plan.rounds * len(group)
            for one in cells:
                self._leave(one)
        self.tell(total, total, "measuring")

    def _entered(self, task: Task) -> Measuring | None:
        """A cell that may be measured; what may not is noted as skipped."""
        past = self._past.get(_of(task), [])
        if task["kind"] == "loss":
            task = self._fewer_targets(task, past)
        why = self._too_much(task, past)
        if why is None:
            return Measuring(task)
        self._skip(task, why)
        return None

    def _turn(self, one: Measuring) -> None:
        enough = one.turns >= 2 and one.spent > ENOUGH * self.plan.cap
        if one.failed is None and not enough:
            most = MOST_STEPS if one.task["pass"] == "step" else MOST
            first = {"count": one.turns == 0, "most": most}
            one.add(self.processes.measure(one.task | self._always | first))

    def _leave(self, one: Measuring) -> None:
        """Note what a cell's turns gave."""
        if one.failed is not None:
            self._skip(one.task, f"failed: {one.failed}")
        if one.seconds:
            self.cells.append(one.cell(self.plan.threads))
        self._past.setdefault(_of(one.task), []).append(one)

    def _skip(self, task: Task, why: str) -> None:
        rest = {key: value for key, value in task.items() if key not in ("kind", "name", "batch")}
        self.skipped.append({task["kind"]: task["name"], **rest, "why": why})

    def _fewer_targets(self, task: Task, past: list[Measuring]) -> Task:
        """As many targets as fit into the cap, judged by the largest catalog so far."""
        if not past or not past[-1].seconds:
            return task
        last = past[-1]
        each = median(last.seconds) / last.task["batch"] * task["catalog"] / last.task["catalog"]
        return task | {"batch": max(1, min(TARGETS, int(self.plan.cap / 2 / each)))}

    def _too_much(self, task: Task, past: list[Measuring]) -> str | None:
        """Why a cell is left out, judged by the shorter ones of its kind; None if it is not."""
        if past and past[-1].failed is not None:
            return f"failed at {size_of(past[-1].task):,}"
        if task["pass"] == "step" and task["kind"] in AGAINST:
            forward = self._past.get(_of({**task, "pass": "forward"}), [])
            if not any(one.task["length"] == task["length"] for one in forward):
                return "its state needs a forward pass, which was not measured"
        if not past or not past[-1].seconds:
            return None
        last, growth = past[-1], size_of(task) / size_of(past[-1].task)
        histories = task["batch"] / last.task["batch"]  # or targets of a loss
        time, memory = powers(task["kind"], task["name"])
        seconds, cap = median(last.seconds) * histories * growth**time, self.plan.cap
        if seconds > cap:
            return f"about {seconds:,.3g} s predicted, above the cap of {cap:g} s"
        needed, there = max(last.peaks, default=0) * growth**memory, available_memory()
        if task["kind"] in AGAINST:
            needed *= histories
        if there is not None and needed > SPARE * there:
            return f"about {needed / 2**30:,.1f} GiB predicted, of {there / 2**30:,.1f} available"
        return None


def _of(task: Task) -> tuple[str, ...]:
    """What cells share of which the shorter ones predict the longer ones."""
    return task["kind"], task["name"], task["pass"]


def size_of(cell: Mapping[str, Any]) -> int:
    """What grows from cell to cell: slots, items of a catalog, or events of a history."""
    return int(cell.get("slots", cell.get("catalog", cell["length"])))


def available_memory() -> int | None:
    """Bytes that a process can still take: of the machine, and of this control group if it is one.

    None where the system does not tell.
    """
    found = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
        group = Path("/sys/fs/cgroup")
        most = (group / "memory.max").read_text().strip()
        if most != "max":
            found.append(int(most) - int((group / "memory.current").read_text()))
    except OSError:
        pass
    return min(found, default=None)
