"""What a search has found: the best settings, what they gain, and every trial."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from longrec.core.format import duration
from longrec.core.shown import Picture, html_table, html_text
from longrec.recommender import Recommender, load
from longrec.tuning.plan import BEST, REPORT, RUNS, Plan
from longrec.tuning.space import Space
from longrec.tuning.study import Trial
from longrec.tuning.values import Value, shown

FORMAT = 1
SHOWN = 10
"""Trials that a table shows, the first one besides."""
ENDS = {
    "ended": "",
    "pruned": "ended early, behind others",
    "refused": "settings that do not go together",
    "failed": "failed",
    "interrupted": "interrupted",
    "": "going on",
}
"""How a trial ended, for people."""


@dataclass(frozen=True)
class Gain:
    """What the best settings gain over the first ones on one log.

    Attributes
    ----------
    first, best : NDCG@10 of the validation targets, as served.
    low, high : 95% interval of the difference, target by target; not numbers where the best
        settings are the first ones.
    targets : how many there were.
    """

    first: float
    best: float
    low: float
    high: float
    targets: int

    @property
    def clear(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        known = not math.isnan(self.low)
        interval = [self.low, self.high] if known else None
        return {
            "first": self.first,
            "best": self.best,
            "interval": interval,
            "targets": self.targets,
        }


@dataclass(frozen=True, eq=False)
class Tuning:
    """What a search has found.

    Attributes
    ----------
    folder : with best.toml, results.json, report.html and the two runs that were kept.
    trials : all of them, in their order.
    best, first : the best trial, and that of the settings to begin with.
    gains : on each log, by its name.
    stop : why the search ended: "budget", "trials" or "tried" (nothing new was drawn any more).
    minutes : that all trials took.
    """

    folder: Path
    plan: Plan
    spaces: Mapping[str, Space]
    trials: Sequence[Trial]
    best: Trial
    first: Trial
    gains: Mapping[str, Gain]
    stop: str
    minutes: float

    @property
    def model(self) -> str:
        """The best model."""
        return self.best.model

    @property
    def settings(self) -> dict[str, Value]:
        """The best settings as far as they are not the model's defaults: keys of `train`."""
        return best_settings(self.spaces[self.model], self.best)

    @property
    def gain(self) -> float:
        """The mean over the logs of NDCG@10 over that of the first settings, less 1."""
        return self.best.gain or 0.0

    @property
    def config(self) -> Path:
        """The best settings as a file, for `longrec.train(config=…)`."""
        return self.folder / BEST

    @property
    def report(self) -> Path:
        """The page."""
        return self.folder / REPORT

    @property
    def runs(self) -> dict[str, Path]:
        """The folders of the best trial's runs, by log."""
        return runs_of(self.folder, self.plan, self.best)

    def load(self, log: str | None = None) -> Recommender:
        """The best trial's recommender, of the first log or of one by its name."""
        return load(self.runs[self.plan.names[0] if log is None else log])

    def plot(self) -> Picture:
        """All trials over time, and what each setting did."""
        from longrec.tuning.pictures import pictures

        drawn = pictures(self.trials, self.spaces, self.plan.names, self.first)
        return next(Picture(caption, svg) for caption, svg in drawn.items())

    def counts(self) -> dict[str, int]:
        """Trials by how they ended."""
        ends = [trial.end for trial in self.trials if trial.counts]
        return {end: ends.count(end) for end in dict.fromkeys(ends)}

    def lines(self) -> list[str]:
        """What was gained, in sentences."""
        return statement(self)

    def __repr__(self) -> str:
        found = ", ".join(
            f"{log} {gain.first:.4f} -> {gain.best:.4f}" for log, gain in self.gains.items()
        )
        chosen = shown(self.settings) or "the defaults"
        return (
            f"Tuning({str(self.folder)!r}: {self.model} with {chosen}: validation NDCG@10 {found}, "
            f"{self.gain:+.1%}, {sum(self.counts().values())} trials)"
        )

    def _repr_html_(self) -> str:
        head, rows = trials_table(self)
        found = html_table(f"search {self.folder}", head, rows)
        return found + "".join(html_text(line) for line in self.lines())

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: what results.json holds."""
        return {
            "format": FORMAT,
            "plan": asdict(self.plan),
            "searched": {
                model: {key: str(values) for key, values in space.searched.items()}
                for model, space in self.spaces.items()
            },
            "model": self.model,
            "settings": self.settings,
            "gain": self.gain,
            "logs": {log: gain.to_dict() for log, gain in self.gains.items()},
            "best": self.best.number,
            "first": self.first.number,
            "runs": {log: str(run) for log, run in self.runs.items()},
            "config": str(self.config),
            "stop": self.stop,
            "minutes": self.minutes,
            "trials": [_trial_dict(trial, self.spaces) for trial in self.trials],
        }


def best_settings(space: Space, trial: Trial) -> dict[str, Value]:
    """A trial's settings that `longrec train` would not have without being told."""
    return {key: value for key, value in trial.settings.items() if value != space.plain[key]}


def runs_of(folder: Path, plan: Plan, trial: Trial) -> dict[str, Path]:
    """The folders of a trial's runs, by log."""
    base = folder / RUNS / trial.run
    return {log: base / log if len(plan.names) > 1 else base for log in plan.names}


def trials_table(tuning: Tuning) -> tuple[list[str], list[list[object]]]:
    """Head and rows: the best trials, and the first one."""
    ended = sorted(
        (trial for trial in tuning.trials if trial.gain is not None),
        key=lambda trial: (-(trial.gain or 0.0), trial.number),
    )
    chosen = [t for n, t in enumerate(ended) if n < SHOWN or t is tuning.first]
    names = tuning.plan.names
    head = ["trial", "model", *(f"NDCG@10 {n}" if names[1:] else "NDCG@10" for n in names)]
    head += ["gain", "time", "settings"]
    rows: list[list[object]] = []
    for trial in chosen:
        space = tuning.spaces[trial.model]
        own = "as begun with" if trial.begins else shown(space.changed(trial.settings))
        measured = [trial.ndcg10[name] for name in names]
        time = duration(trial.seconds)
        rows.append([trial.number, trial.model, *measured, f"{trial.gain:+.1%}", time, own])
    return head, rows


def statement(tuning: Tuning) -> list[str]:
    """What was gained, and what that is worth."""
    counts = tuning.counts()
    early = counts.get("pruned", 0)
    lines = [
        f"{sum(counts.values())} trials in {duration(60 * tuning.minutes)}, {early} of them ended "
        "early since they were behind others."
    ]
    if tuning.best.number == tuning.first.number:
        return [*lines, "Nothing that was tried serves the validation targets better."]
    for log, gain in tuning.gains.items():
        where = f"{log}: " if len(tuning.gains) > 1 else ""
        lines.append(
            f"{where}validation NDCG@10 as served {gain.first:.4f} with the first settings, "
            f"{gain.best:.4f} with the best settings: {gain.best - gain.first:+.4f} "
            f"({gain.low:+.4f} to {gain.high:+.4f}, 95% interval over {gain.targets:,} targets)"
            + ("." if gain.clear else ", which may be chance.")
        )
    if len(tuning.gains) > 1:
        lines.append(f"Mean over the logs of NDCG@10 over the first settings': {tuning.gain:+.1%}.")
    lines.append(
        "The best of several trials, by the targets that chose it, looks better than it is: "
        "evaluate the best run once on the test targets for a number to quote."
    )
    return lines


def _trial_dict(trial: Trial, spaces: Mapping[str, Space]) -> dict[str, Any]:
    space = spaces.get(trial.model)
    return {
        "number": trial.number,
        "model": trial.model,
        "first": trial.begins,
        "settings": {} if space is None else space.changed(trial.settings),
        "end": trial.end,
        "gain": trial.gain,
        "ndcg10": dict(trial.ndcg10),
        "seconds": trial.seconds,
        "error": trial.error or None,
    }
