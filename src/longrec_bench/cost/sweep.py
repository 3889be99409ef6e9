"""All tasks of a plan in interleaved rounds, a process per sample; what will not fit is skipped."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

from longrec.core.errors import LongrecError
from longrec.core.machine import available_memory, usable_cores
from longrec_bench.cost.analysis import PEERS
from longrec_bench.cost.plan import TARGETS, CostPlan
from longrec_bench.cost.systems import Task, expected_growth
from longrec_bench.measurement import Measurement, Progress, Row, interleaved

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
    always : what it is told besides the task.
    enough : seconds after which two samples are enough.
    """

    def __init__(self, task: Task, measure: Measure, always: Task, enough: float) -> None:
        super().__init__({})
        self.task = task
        self.failed: str | None = None
        self._measure, self._always, self._enough = measure, always, enough
        self.peaks: list[int] = []
        self._operations: int | None = None
        self._processor, self._spent, self._samples = 0.0, 0.0, 0

    def sample(self) -> None:
        """Measure in one more process, unless it failed or took long enough."""
        if self.failed is not None or (self._samples > 1 and self._spent > self._enough):
            return
        most = MOST_STEPS if self.task["pass"] == "step" else MOST
        asked = self.task | self._always | {"count": self._samples == 0, "most": most}
        found = self._measure(asked)
        self._samples += 1
        self.failed = found.get("failed")
        if self.failed is not None:
            return
        self.seconds.extend(found["seconds"])
        if found["peak_bytes"] is not None:
            self.peaks.append(found["peak_bytes"])
        self._operations = found["operations"] or self._operations
        self._processor += found["processor"]
        self._spent += sum(found["seconds"]) + median(found["seconds"]) + found["setup"]

    def row(self) -> Row:
        """The figures of all samples, at least one of which was well: of readers per history."""
        condition, middle = dict(self.task), median(self.seconds)
        kind, name, batch = (condition.pop(key) for key in ("kind", "name", "batch"))
        events = batch * (1 if condition["pass"] == "step" else condition["length"])
        per = batch if kind in PEERS else 1
        operations, threads = self._operations, self._always["threads"]
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
        }


class Sweep:
    """Measures the groups of a plan, one after the other, and keeps what was found.

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
        self._always = {
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
            rates = self.measure({"kind": "machine", **self._always})
            if "failed" in rates:
                raise LongrecError(f"the machine's rates were not measured: {rates['failed']}")
            for key, rate in rates.items():
                best[key] = max(rate, best.get(key, 0.0))
        return best

    def run(self) -> None:
        """Sample all tasks of the plan."""
        rng, groups = random.Random(self.plan.seed), list(self.plan.groups())
        done, total = 0, sum(map(len, groups)) * self.plan.rounds
        for group in groups:
            tasks = [one for task in group if (one := self._admitted(task)) is not None]
            for number, (_, one) in enumerate(interleaved(tasks, self.plan.rounds, rng)):
                words = f"{one.task['name']}, {size_of(one.task):,}"
                self.progress(done + number, total, words)
                one.sample()
            done += self.plan.rounds * len(group)
            for one in tasks:
                if one.failed is not None:
                    self._skip(one.task, f"failed: {one.failed}")
                if one.seconds:
                    self.cells.append(one.row())
                self._shorter.setdefault(_system(one.task), []).append(one)
        self.progress(total, total, "measuring")

    def _admitted(self, task: Task) -> TaskMeasurement | None:
        """A task that may be measured; what may not is noted as skipped."""
        shorter = self._shorter.get(_system(task), [])
        if task["kind"] == "loss":
            task = self._with_fewer_targets(task, shorter)
        why = self._too_much(task, shorter)
        if why is not None:
            self._skip(task, why)
            return None
        return TaskMeasurement(task, self.measure, self._always, ENOUGH * self.plan.cap)

    def _skip(self, task: Task, why: str) -> None:
        rest = {key: value for key, value in task.items() if key not in ("kind", "name", "batch")}
        self.skipped.append({task["kind"]: task["name"], **rest, "why": why})

    def _with_fewer_targets(self, task: Task, smaller: list[TaskMeasurement]) -> Task:
        """As many targets as fit into the cap, judged by the largest catalog so far."""
        if not smaller or not smaller[-1].seconds:
            return task
        last = smaller[-1]
        seconds = median(last.seconds) / last.task["batch"]  # of one target
        seconds *= task["catalog"] / last.task["catalog"]
        return task | {"batch": max(1, min(TARGETS, int(self.plan.cap / 2 / seconds)))}

    def _too_much(self, task: Task, shorter: list[TaskMeasurement]) -> str | None:
        """Why a task is skipped, judged by the shorter ones of its system; None if it is not."""
        if shorter and shorter[-1].failed is not None:
            return f"failed at {size_of(shorter[-1].task):,}"
        if task["pass"] == "step" and task["kind"] in PEERS:
            forward = self._shorter.get(_system(task | {"pass": "forward"}), [])
            if not any(one.task["length"] == task["length"] for one in forward):
                return "its state needs a forward pass, which was not measured"
        if not shorter or not shorter[-1].seconds:
            return None
        last, growth = shorter[-1], size_of(task) / size_of(shorter[-1].task)
        histories = task["batch"] / last.task["batch"]  # or targets of a loss
        time, memory = expected_growth(task["kind"], task["name"])
        seconds, cap = median(last.seconds) * histories * growth**time, self.plan.cap
        if seconds > cap:
            return f"about {seconds:,.3g} s predicted, above the cap of {cap:g} s"
        needed, available = max(last.peaks, default=0) * growth**memory, available_memory()
        if task["kind"] in PEERS:
            needed *= histories
        if needed > SPARE * available:
            return (
                f"about {needed / 2**30:,.1f} GiB predicted, of {available / 2**30:,.1f} available"
            )
        return None


def _system(task: Task) -> tuple[str, ...]:
    """What tasks share of which the shorter ones predict the longer ones."""
    return task["kind"], task["name"], task["pass"]


def size_of(row: Mapping[str, Any]) -> int:
    """What grows from task to task: slots, items of a catalog, or events of a history."""
    return int(row.get("slots", row.get("catalog", row["length"])))
