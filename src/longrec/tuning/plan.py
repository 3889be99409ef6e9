"""What a search is about, kept in FOLDER/tune.json: the same call goes on with it.

FOLDER/
  tune.json         logs, models, what is searched, and the minutes of a trial
  trials.sqlite3    every trial, as Optuna keeps it
  trials/NUMBER/    the run of the first settings, that of the best trial, and the one that goes on
  best.toml         the best settings, for `longrec train --config`
  results.json, report.html
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from longrec.core.errors import DataError, UsageError
from longrec.core.sealed import SealedKind
from longrec.models.common.settings import check_model
from longrec.tuning.space import Space, check_search, space_of

TUNING = SealedKind(
    "a search for settings",
    "tune.json",
    version=1,
    mend="search in a new folder",
    made_by="longrec tune",
    with_digests=False,
)
STORE, RUNS = "trials.sqlite3", "trials"
BEST, RESULTS, REPORT = "best.toml", "results.json", "report.html"
TRIALS = 8
"""Trials of full length that the budget has time for, where nobody says how long one lasts."""
FEWEST = 0.25
"""Share of a trial's time for which another one is begun."""
_MUST_STAY = {
    "fingerprints": "histories with the fingerprints",
    "models": "the models",
    "search": "the settings to search",
    "chosen": "the settings chosen for the log",
    "given": "the settings to begin with",
    "fixed": "the fixed settings",
    "trial_minutes": "trials of so many minutes:",
    "device": "the device",
}


@dataclass(frozen=True)
class Plan:
    """What is searched, and for how long.

    Attributes
    ----------
    histories, fingerprints : the logs.
    names : what tables call them, each another name.
    models : what the first one begins with is what everything is measured against.
    search : values to try by key, as text; empty: those that the models declare.
    chosen : what the recipe "auto" chose to begin with, where no model is named.
    given, fixed : settings to begin with, and settings that no trial changes.
    budget : minutes of the whole search.
    trial_minutes : most minutes of one trial, on all logs together.
    trials : most of them; None: no limit.
    device : that of trainings.
    """

    histories: tuple[str, ...]
    fingerprints: tuple[str, ...]
    names: tuple[str, ...]
    models: tuple[str, ...]
    search: dict[str, str]
    chosen: dict[str, Any]
    given: dict[str, Any]
    fixed: dict[str, Any]
    budget: float
    trial_minutes: float
    trials: int | None
    device: str

    def __post_init__(self) -> None:
        if not self.models:
            raise UsageError("no model to search for: name one or more, such as elastic,sasrec")
        if "max_minutes" in {**self.given, **self.fixed}:
            raise UsageError("max_minutes is set by the minutes of a trial (--trial-minutes)")

    def spaces(self, with_times: Sequence[bool]) -> dict[str, Space]:
        """What is searched of each model, all checked; of each log whether it has times."""
        check_search([check_model(model) for model in self.models], self.search)
        given = self.given, self.fixed, self.search, with_times, self.chosen
        return {model: space_of(model, *given) for model in self.models}

    def write(self, folder: Path) -> None:
        """Write the plan into the search's folder."""
        TUNING.write(folder, TUNING.describe(asdict(self)))

    def check_continues(self, begun: Plan, folder: Path) -> None:
        """Raise UsageError unless this plan is the one begun, with other limits at most."""
        for key, words in _MUST_STAY.items():
            old, new = getattr(begun, key), getattr(self, key)
            if old != new:
                raise UsageError(
                    f"{folder} was begun with {words} {_text(old)}, not {_text(new)}: search with "
                    "that, in a new folder, or begin anew (--overwrite, overwrite=True)"
                )


def read_plan(folder: Path) -> Plan | None:
    """The plan of a search that was begun in a folder; None where there is none.

    Raises
    ------
    DataError
        When tune.json is damaged or of another version.
    UsageError
        When the folder is a file or holds other things.
    """
    document = TUNING.begun(folder, "search")
    if document is None:
        return None
    try:
        lists = ("histories", "fingerprints", "names", "models")
        return Plan(**document | {key: tuple(document[key]) for key in lists})
    except (KeyError, TypeError, UsageError) as error:
        path = folder / TUNING.document
        raise DataError(f"{path} is damaged ({error}): {TUNING.mend}.") from error


def clear(folder: Path) -> None:
    """Remove a search from its folder: runs, trials, results, and the plan."""
    shutil.rmtree(folder / RUNS, ignore_errors=True)
    for name in (BEST, RESULTS, REPORT, STORE, f"{STORE}-journal", TUNING.document):
        (folder / name).unlink(missing_ok=True)


def names_of(paths: list[Path]) -> tuple[str, ...]:
    """The last part of each path; with a number behind where two are the same."""
    names: list[str] = []
    for path in paths:
        name, number = path.resolve().name, 2
        while name in names:
            name, number = f"{path.resolve().name}-{number}", number + 1
        names.append(name)
    return tuple(names)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}={v}" if v != "" else k for k, v in value.items()) or "none"
    if isinstance(value, tuple):
        return ", ".join(str(one)[:12] for one in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
