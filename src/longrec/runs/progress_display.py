"""The display of one training on standard error."""

from __future__ import annotations

import math
import time

from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn

from longrec.core.console import live_bar
from longrec.core.format import duration
from longrec.training.progress import Report


class TrainingProgress:
    """A bar with epoch, loss, validation, events per second and time left.

    Call it with each report of a training; every validation leaves a line behind.
    """

    def __init__(self, name: str, max_epochs: int, max_minutes: float | None) -> None:
        self.name, self.max_epochs, self.max_minutes = name, max_epochs, max_minutes
        self._validations, self._last_update = 0, 0.0
        self._bar = live_bar(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
        )

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        self._task = self._bar.add_task(self.name, total=None, state="")
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, report: Report) -> None:
        status = report.status
        if len(status.rows) > self._validations:
            self._validations = len(status.rows)
            row = status.rows[-1]
            best = " best" if row.ndcg10 == status.best else ""
            found = f"validation NDCG@10 as served {row.ndcg10:.4f}{best}  "
            self._bar.console.print(
                f"{self.name}  epoch {row.epoch:>3}  {_loss(row.loss, 4)}"
                f"{'' if math.isnan(row.ndcg10) else found}{row.seconds:.0f} s",
                markup=False,
            )
        now = time.monotonic()
        if now - self._last_update < 0.2:
            return
        self._last_update = now
        state = _loss(report.loss, 3)
        if status.best >= 0:
            state += f"best NDCG@10 as served {status.best:.4f}  "
        if status.total_steps:
            left = duration(self._seconds_left(report))
            state += f"{report.events_per_second:,.0f} events/s  at most {left} left"
        step = status.step
        if report.validating is not None:
            state, step = f"validating {report.validating:.0%}  {state}", report.steps
        self._bar.update(
            self._task,
            description=f"{self.name} epoch {status.epoch + 1}/{self.max_epochs}",
            completed=step,
            total=report.steps,
            state=state,
        )

    def _seconds_left(self, report: Report) -> float:
        """Seconds until the last epoch or the time limit, whichever is first."""
        status = report.status
        done = status.epoch + status.step / max(report.steps, 1)
        left = status.seconds / max(done, 1e-9) * max(self.max_epochs - done, 0)
        if self.max_minutes is not None:
            left = min(left, 60 * self.max_minutes - status.seconds)
        return max(left, 0)


def _loss(loss: float | None, digits: int) -> str:
    """Nothing before the first step, when weights to start from are validated."""
    return "" if loss is None else f"loss {loss:.{digits}f}  "
