"""The display of one training on standard error."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.progress import BarColumn, SpinnerColumn, TextColumn

from longrec.core import console
from longrec.core.format import duration
from longrec.training.progress import Report

ROOM_FOR_BAR = 70
"""Characters of a terminal below which there is no bar."""


class TrainingProgress:
    """A line with the epoch, the best figure, and as much else as the terminal has room for.

    Call it with each report of a training; every validation leaves a line behind.
    """

    def __init__(self, name: str, max_epochs: int, max_minutes: float | None) -> None:
        self.name, self.max_epochs, self.max_minutes = name, max_epochs, max_minutes
        self._validations: int | None = None
        self._last_update = 0.0
        bar = [BarColumn(console.BAR)] if console.err.width >= ROOM_FOR_BAR else []
        words = TextColumn("{task.description}", markup=False)
        self._bar = console.live_bar(SpinnerColumn(), *bar, words)

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        self._task = self._bar.add_task(self.name, total=None)
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, report: Report) -> None:
        status = report.status
        if self._validations is None:  # those of an earlier process were told by it
            self._validations = len(status.rows)
        if len(status.rows) > self._validations:
            self._validations = len(status.rows)
            row, *earlier = reversed(status.rows)
            best = " best" if row.ndcg10 == status.best else ""
            unmeasured = math.isnan(row.ndcg10)  # a final run, which trains so many epochs
            found = "" if unmeasured else f"NDCG@10 {row.ndcg10:.4f}{best}"
            epoch = f"epoch {row.epoch}" + (f" of {self.max_epochs}" if unmeasured else "")
            if earlier and earlier[0].epoch == row.epoch:
                epoch += " and a part"  # the clock ended the next one
            words = (epoch, found, _loss(row.loss, 4), duration(row.seconds))
            console.say("  ".join([self.name, *filter(None, words)]))
        now = time.monotonic()
        if now - self._last_update < 0.2:
            return
        self._last_update = now
        step = status.step if report.validating is None else report.steps
        self._bar.update(
            self._task,
            description=fitting(self._parts(report), _room()),
            completed=step,
            total=report.steps,
        )

    def _parts(self, report: Report) -> list[str]:
        """What there is to tell, what matters most first."""
        status = report.status
        parts = [
            f"{self.name}  epoch {status.epoch + 1}/{self.max_epochs}",
            f"best NDCG@10 {status.best:.4f}" if status.best >= 0 else "",
            "" if report.validating is None else f"validating {report.validating:.0%}",
            _loss(report.loss, 3),
        ]
        if status.total_steps:
            parts.append(f"{duration(self._seconds_left(report))} left at most")
            parts.append(f"{report.events_per_second:,.0f} events/s")
        return [part for part in parts if part]

    def _seconds_left(self, report: Report) -> float:
        """Seconds until the last epoch or the time limit, whichever is first."""
        status = report.status
        done = status.epoch + status.step / max(report.steps, 1)
        left = status.seconds / max(done, 1e-9) * max(self.max_epochs - done, 0)
        if self.max_minutes is not None:
            left = min(left, 60 * self.max_minutes - status.seconds)
        return max(left, 0)


def line_of_log(row: Mapping[str, Any]) -> str:
    """What is told of an epoch of a training that goes on elsewhere, by the row of its log."""
    ndcg10 = row["ndcg10"]
    found = "" if ndcg10 is None or math.isnan(ndcg10) else f"NDCG@10 {ndcg10:.4f}"
    words = (f"epoch {row['epoch']}", found, _loss(row["loss"], 4), duration(row["seconds"]))
    return "  ".join(filter(None, words))


def fitting(parts: Sequence[str], room: int) -> str:
    """The first parts that stand in so many characters; the first one always."""
    text = parts[0]
    for part in parts[1:]:
        if len(text) + 2 + len(part) > room:
            break
        text += f"  {part}"
    return text


def _room() -> int:
    """Characters beside spinner and bar."""
    width = console.err.width
    return width - 3 - (console.BAR + 1 if width >= ROOM_FOR_BAR else 0)


def _loss(loss: float | None, digits: int) -> str:
    """Nothing before the first step, when weights to start from are validated."""
    return "" if loss is None else f"loss {loss:.{digits}f}"
