"""All tasks of a plan in interleaved rounds, a process per sample; what will not fit is skipped."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

from longrec.core.errors import LongrecError
from longrec.core.memory import available_memory
from longrec.core.threads import usable_cores
from longrec_bench.cost.systems import PEERS, Task, expected_growth, state_bytes
from longrec_bench.measurement import Measurement, Progress, Row, interleaved
from longrec_bench.plan import TARGETS, CostPlan

MOST, MOST_STEPS, SHARE = 20, 200, 0.02
"""Timed passes of a sample, and steps; there are no more once they took this share of the cap."""
ENOUGH = 4.0
"""Caps that all samples of a task may take together; there is no further one then, but two."""
GRACE = 60.0
"""Seconds that a sample has besides three caps: for its setup, the first pass and a timed one."""
SPARE = 0.8
"""Of the available memory that a pass may be predicted to need."""

Measure = Callable[[Task], dict[str, Any]]
"""Measures a task once: `worker.measure_in_process`."""


class TaskMeasurement(Measurement):
    """A task and what its samples so far gave.

    Parameters
    ----------
    measure : does one sample.
    settings : of the process that does it, for all tasks alike.
    enough : seconds after which two samples are enough.
    """

    def __init__(self, task: Task, measure: Measure, settings: Row, enough: float) -> None:
        super().__init__(task)
        self.failed: str | None = None
        self.peaks: list[int] = []
        self._operations: int | None = None
        self._measure, self._settings, self._enough = measure, settings, enough
        self._processor, self._spent, self._samples = 0.0, 0.0, 0

    def sample(self) -> None:
        """Measure in one more process, unless it failed or took long enough."""
        if self.failed is not None or (self._samples > 1 and self._spent > self._enough):
            return
        most = MOST_STEPS if self.condition["pass"] == "step" else MOST
        settings = self._settings | {"most": most, "count": self._samples == 0}
        found = self._measure(self.condition | settings)
        self._samples += 1
        if "failed" in found:
            self.failed = found["failed"]
            return
        self.seconds.extend(found["seconds"])
        if found["peak_bytes"] is not None:
            self.peaks.append(found["peak_bytes"])
        self._operations = found["operations"] or self._operations
        self._processor += found["processor"]
        self._spent += sum(found["seconds"]) + median(found["seconds"]) + found["setup"]

    def row(self) -> Row:
        """The figures of all samples, at least one of which was well: of readers per history."""
        condition, middle = dict(self.condition), median(self.seconds)
        kind, name, batch = (condition.pop(key) for key in ("kind", "name", "batch"))
        events = batch * (1 if condition["pass"] == "step" else condition["length"])
        per = batch if kind in PEERS else 1
        operations, threads = self._operations, self._settings["threads"]
        return {
            kind: name,
            **condition,
            "seconds_median": middle / per,
            "seconds_min": min(self.seconds) / per,
            "seconds_max": max(self.seconds) / per,
            "peak_bytes": round(median(self.peaks) / per) if self.peaks else None,
            "batch": batch,
            "threads": threads,
            "repeats": len(self.seconds),
            "events_per_second": events / middle,
            "processor_share": self._processor / sum(self.seconds) / threads,
            "operations": None if operations is None else operations // per,
            "state_bytes": state_bytes(kind, name) if kind in PEERS else None,
        }


class Sweep:
    """Measures the groups of a plan, one after the other.

    Attributes
    ----------
    cells : rows of all that was measured.
    skipped : what was not, as {"mixer": name, "length": …, "pass": …, "why": …}.
    """

    def __init__(self, plan: CostPlan, measure: Measure, progress: Progress) -> None:
        self.plan, self.measure, self.progress = plan, measure, progress
        self.cells: list[Row] = []
        self.skipped: list[Row] = []
        self._shorter: dict[tuple[str, ...], list[TaskMeasurement]] = {}
        self._settings = {
            "cores": sorted(usable_cores())[-plan.threads :],
            "threads": plan.threads,
            "seed": plan.seed,
            "share": SHARE * plan.cap,
            "limit": 3 * plan.cap + GRACE,
        }

    def rates(self) -> dict[str, float]:
        """The machine's rates, the best of as many samples as tasks have.

        Raises
        ------
        LongrecError
            When their process fails.
        """
        best: dict[str, float] = {}
        for _ in range(self.plan.rounds):
            found = self.measure({"kind": "machine", **self._settings})
            if "failed" in found:
                raise LongrecError(f"the machine's rates were not measured: {found['failed']}")
            best = {name: max(rate, best.get(name, 0.0)) for name, rate in found.items()}
        return best

    def run(self) -> None:
        """Sample all tasks of the plan."""
        rng, groups = random.Random(self.plan.seed), list(self.plan.groups())
        done, total = 0, sum(map(len, groups)) * self.plan.rounds
        for group in groups:
            measurements = []
            for task in group:
                task, why = self._fit(task)
                if why is not None:
                    self._skip(task, why)
                    continue
                enough = ENOUGH * self.plan.cap
                one = TaskMeasurement(task, self.measure, self._settings, enough)
                measurements.append(one)
            for number, (_, one) in enumerate(interleaved(measurements, self.plan.rounds, rng)):
                words = f"{one.condition['name']}, {size_of(one.condition):,}"
                self.progress(done + number, total, words)
                one.sample()
            done += self.plan.rounds * len(group)
            for one in measurements:
                if one.failed is not None:
                    self._skip(one.condition, f"failed: {one.failed}")
                if one.seconds:
                    self.cells.append(one.row())
                self._shorter.setdefault(_system(one.condition), []).append(one)
        self.progress(total, total, "measuring")

    def _skip(self, task: Task, why: str) -> None:
        rest = {key: value for key, value in task.items() if key not in ("kind", "name", "batch")}
        self.skipped.append({task["kind"]: task["name"], **rest, "why": why})

    def _fit(self, task: Task) -> tuple[Task, str | None]:
        """-> (the task, a loss with as many targets as fit into the cap; why it is skipped, if so).

        That is judged by the longest of the shorter tasks of its system.
        """
        plan, shorter = self.plan, self._shorter.get(_system(task), [])
        if shorter and shorter[-1].failed is not None:
            return task, f"failed at {size_of(shorter[-1].condition):,}"
        if task["pass"] == "step" and task["kind"] in PEERS:
            forward = self._shorter.get(_system(task | {"pass": "forward"}), [])
            if not any(one.condition["length"] == task["length"] for one in forward):
                return task, "its state needs a forward pass, which was not measured"
        if not shorter:
            return task, None
        last, task_before = shorter[-1], shorter[-1].condition
        growth = size_of(task) / size_of(task_before)
        if task["kind"] == "loss":
            of_one = median(last.seconds) / task_before["batch"] * growth
            task = task | {"batch": max(1, min(TARGETS, int(plan.cap / 2 / of_one)))}
        histories = task["batch"] / task_before["batch"]  # or targets of a loss
        time, memory = expected_growth(task["kind"], task["name"])
        seconds = median(last.seconds) * histories * growth**time
        if seconds > plan.cap:
            return task, f"about {seconds:,.3g} s predicted, above the cap of {plan.cap:g} s"
        needed, available = max(last.peaks, default=0) * growth**memory, available_memory()
        needed *= histories if task["kind"] in PEERS else 1
        if needed > SPARE * available:
            predicted, free = needed / 2**30, available / 2**30
            return task, f"about {predicted:,.1f} GiB predicted, of {free:,.1f} available"
        return task, None


def _system(task: Task) -> tuple[str, ...]:
    """What tasks share of which the shorter ones predict the longer ones."""
    return task["kind"], task["name"], task["pass"]


def size_of(row: Mapping[str, Any]) -> int:
    """What grows from task to task: slots, items of a catalog, or events of a history."""
    return int(row.get("slots", row.get("catalog", row["length"])))
