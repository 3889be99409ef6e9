"""What the command line shows: progress on standard error, tables, and errors without traceback."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from longrec.evaluation.summary import Metrics
    from longrec.training.progress import Report

# Ids, paths and messages are shown as they are: no markup, emoji codes or control characters.
out = Console(highlight=False, soft_wrap=True, emoji=False)
if not out.is_terminal and "COLUMNS" not in os.environ:
    out.width = 160  # a file or a pipe: tables need not fold
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def watched() -> bool:
    """Whether a person sees standard error: a terminal or a notebook."""
    return err.is_terminal or err.is_jupyter


def say(text: str) -> None:
    """A line for people, on standard error; ids in it are shown as they are."""
    err.print(plain(text), markup=False)


def fail(message: str) -> None:
    """One message on standard error, for people."""
    err.print(Text.assemble(("error:", "red"), " ", plain(message)))


def plain(text: str) -> str:
    """Text that cannot steer a terminal: control characters become \\x1b and the like."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def print_json(value: Any) -> None:
    """One JSON document on standard output, for programs."""
    sys.stdout.write(json.dumps(value, indent=2, default=str, allow_nan=False) + "\n")
    sys.stdout.flush()


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on standard output; numbers stand to the right."""
    shown = Table(title=Text(plain(title)), title_justify="left", title_style="bold")
    shown.show_header = any(columns)
    for number, name in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[number], int | float) for row in rows)
        shown.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(Text(_cell(value)) for value in row))
    out.print(shown)


def _cell(value: object) -> str:
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    return plain(text).replace("\n", "\\n")


@contextmanager
def counting(what: str) -> Iterator[Any]:
    """A progress bar for work told as (done, of all), and in new words if given (third)."""
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=not watched(),
    ) as bar:
        task = bar.add_task(plain(what), total=None)

        def tell(done: float, total: float, words: str = what) -> None:
            bar.update(task, completed=done, total=total, description=plain(words))

        yield tell


class TrainingProgress:
    """The display of one training: epoch, loss, validation, events per second, time left."""

    def __init__(self, name: str, max_epochs: int, max_minutes: float | None) -> None:
        self.name, self.max_epochs, self.max_minutes = name, max_epochs, max_minutes
        self.shown, self.drawn = 0, 0.0
        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            console=err,
            transient=True,
            disable=not watched(),
        )

    def __enter__(self) -> TrainingProgress:
        self.bar.start()
        self.task = self.bar.add_task(self.name, total=None, state="")
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def __call__(self, report: Report) -> None:
        """Show a report; a validation leaves a line behind."""
        place = report.place
        if len(place.rows) > self.shown:
            self.shown = len(place.rows)
            row = place.rows[-1]
            best = " best" if row["ndcg10"] == place.best else ""
            self.bar.console.print(
                f"{self.name}  epoch {row['epoch']:>3}  {_loss(row['loss'], 4)}"
                f"validation NDCG@10 {row['ndcg10']:.4f}{best}  {row['seconds']:.0f} s",
                markup=False,
            )
        now = time.monotonic()
        if now - self.drawn < 0.2:
            return
        self.drawn = now
        state = f"{_loss(report.loss, 3)}best NDCG@10 {max(place.best, 0):.4f}"
        if place.total_steps:
            rate, left = report.events_per_second, self._left(report)
            state += f"  {rate:,.0f} events/s  at most {left} left"
        step = place.step
        if report.validating is not None:
            state, step = f"validating {report.validating:.0%}  {state}", report.steps
        self.bar.update(
            self.task,
            description=f"{self.name} epoch {place.epoch + 1}/{self.max_epochs}",
            completed=step,
            total=report.steps,
            state=state,
        )

    def _left(self, report: Report) -> str:
        place = report.place
        done = place.epoch + place.step / max(report.steps, 1)
        left = place.seconds / max(done, 1e-9) * max(self.max_epochs - done, 0)
        if self.max_minutes is not None:
            left = min(left, 60 * self.max_minutes - place.seconds)
        return clock(max(left, 0))


def _loss(loss: float | None, digits: int) -> str:
    """Nothing before the first step, when weights to start from are validated."""
    return "" if loss is None else f"loss {loss:.{digits}f}  "


def clock(seconds: float) -> str:
    """90 -> "1:30", 3700 -> "1:01:40"."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def metrics_table(name: str, metrics: Metrics) -> None:
    """The metrics of one model with intervals, and the protocol below."""
    rows: list[list[object]] = []
    for key in metrics:
        if not key.startswith("unfiltered/"):
            low, high = metrics.intervals[key]
            bare = f"unfiltered/{key}"
            rows.append([key, metrics[key], f"{low:.4f} to {high:.4f}", metrics[bare]])
    table(name, ["metric", "seen filtered", "95% interval", "unfiltered"], rows)
    if len(metrics.buckets) > 1:
        table(
            "by history length",
            ["events", "targets", "ndcg@10", "hr@10"],
            [
                [b.label, b.targets, b.estimates["ndcg@10"], b.estimates["hr@10"]]
                for b in metrics.buckets
            ],
        )
    out.print(plain(metrics.protocol()), markup=False)


def gain_table(warm: Mapping[str, Any]) -> None:
    """What a warm start gained over the run that it started from, on the new period."""
    gain = warm["gain"]
    if not gain["targets"]:
        out.print(plain(f"gain: not measured, since {gain['note']}"), markup=False)
        return
    rows: list[list[object]] = []
    parts = [("all", gain), ("items that the old model knows", gain.get("of_known_items"))]
    for name, part in parts:
        for key in () if part is None else ("ndcg@10", "hr@10"):
            found = part[key]
            low, high = found["interval"]
            change = f"{found['difference']:+.4f} ({low:+.4f} to {high:+.4f})"
            rows.append([name, part["targets"], key, found["old"], found["new"], change])
    table(
        f"gain over {warm['run'] or 'the old model'} on the new period",
        ["targets", "number", "metric", "old", "new", "difference (95% interval)"],
        rows,
    )
    seen = "filtered" if gain["lead"] == "filtered" else "not filtered, since repeats are common"
    out.print(
        f"Test targets ({gain['split']}) newer than the old model's data, full ranking, seen items "
        f"{seen}. The old model does not know the item of {gain['unknown_to_old']:.1%} of them, "
        "which counts as a miss.",
        markup=False,
    )


def facts_table(title: str, facts: Mapping[str, object]) -> None:
    """Names and values, one row each."""
    table(title, ["", ""], [[key, str(value)] for key, value in facts.items()])
