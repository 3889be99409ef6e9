"""Evaluations of runs that exist: the one that is asked for of each, and whether they compare."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longrec.artifact.folder import EVALUATION, tensors_of
from longrec.comparison.read_runs import read_json
from longrec.core.choices import ExcludeSeen, SplitName
from longrec.core.errors import DataError, UsageError
from longrec.core.format import LISTED, listed
from longrec.data.histories import Histories
from longrec.evaluation.metrics import CUTOFFS
from longrec.evaluation.summary import Metrics
from longrec.runs.evaluations import FOLDER


@dataclass(frozen=True)
class Asked:
    """Which evaluation of each run is wanted; None: as the run has it.

    `exclude_seen` None wants one policy for all, "auto" lets each run have its own.
    """

    split: SplitName = "test"
    data: Histories | None = None
    protocol: str | None = None
    exclude_seen: ExcludeSeen | None = None

    @property
    def options(self) -> str:
        """What `longrec evaluate` is given to make such an evaluation."""
        words = "" if self.data is None else f" --data {shlex.quote(str(self.data.path))}"
        words += "" if self.split == "test" else f" --split {self.split}"
        words += "" if self.protocol is None else f" --protocol {self.protocol}"
        if isinstance(self.exclude_seen, bool):
            words += f" --exclude-seen {'yes' if self.exclude_seen else 'no'}"
        return words


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One evaluation of a run: its folder, and what it says of itself."""

    run: Path
    folder: Path
    metrics: Metrics
    about: dict[str, Any]

    def fits(self, asked: Asked) -> bool:
        """Whether it is one that was asked for."""
        metrics = self.metrics
        policy = asked.exclude_seen if isinstance(asked.exclude_seen, bool) else None
        return (
            metrics.split == asked.split
            and set(CUTOFFS) <= set(metrics.ks)
            and (asked.data is None or asked.data.fingerprint == self.fingerprint)
            and asked.protocol in (None, metrics.protocol)
            and policy in (None, metrics.exclude_seen)
        )

    @property
    def fingerprint(self) -> str:
        """Of the histories."""
        return self.metrics.events or self.about["provenance"]["data"]["fingerprint"]

    @property
    def facts(self) -> dict[str, str]:
        """What two evaluations must have in common to be compared, in words."""
        metrics = self.metrics
        hides = {True: "left out", False: "recommended", None: "each by its own policy"}
        cut = "" if metrics.cut is None else f" cut at {metrics.cut}"
        return {
            "data": f"fingerprint {self.fingerprint[:12]}",
            "protocol": metrics.protocol + cut,
            "split": metrics.split,
            "targets": f"{metrics.counts['targets']:,}",
            "information": str(self.about.get("information", "strict")),
            "ties": str(self.about.get("ties", "in the log's own order")),
            "seen items as served": hides[metrics.exclude_seen],
        }


def chosen(runs: Sequence[Path], asked: Asked) -> list[Evaluation]:
    """The evaluation that is asked for of each run: its own test first, else the latest.

    Raises
    ------
    DataError
        When runs are none, or have no such evaluation; all of them are named.
    UsageError
        When the evaluations are not of the same data, protocol, split and policy.
    """
    found, lacking = [], []
    for run in runs:
        if tensors_of(run) is None:
            raise DataError(f"{run} holds no run: `longrec train HISTORIES --out RUN` makes one")
        own = next((one for one in _evaluations(run) if one.fits(asked)), None)
        if own is None:
            lacking.append(str(run))
        else:
            found.append(own)
    if lacking:
        commands = "; ".join(
            f"longrec evaluate {shlex.quote(run)}{asked.options}" for run in lacking[:LISTED]
        )
        raise DataError(
            f"without such an evaluation (of the weights that the run has now): "
            f"{listed(lacking)}. Evaluate first: {commands}"
        )
    check_alike(found, own_policies=asked.exclude_seen == "auto")
    return found


def check_alike(evaluations: Sequence[Evaluation], own_policies: bool) -> None:
    """Raise UsageError, naming what differs and where, unless these can be compared."""
    differing = []
    for name in evaluations[0].facts if evaluations else ():
        if name == "seen items as served" and own_policies:
            continue
        runs_of: dict[str, list[str]] = {}
        for one in evaluations:
            runs_of.setdefault(one.facts[name], []).append(str(one.run))
        if len(runs_of) > 1:
            told = "; ".join(f"{value} in {listed(runs)}" for value, runs in runs_of.items())
            differing.append((name, told))
    if not differing:
        return
    text = ". ".join(f"{name}: {told}" for name, told in differing)
    mends = {
        "data": "name the histories by --data, and evaluate all runs on them",
        "protocol": "name one by --protocol, and evaluate all runs under it",
        "seen items as served": (
            "name one policy by --exclude-seen yes or no, and evaluate all runs with it, or "
            "compare each as it serves with --exclude-seen auto"
        ),
    }
    mend = mends.get(differing[0][0], "evaluate all runs alike")
    raise UsageError(
        f"these evaluations cannot be compared. They differ in {text}. To mend: {mend}"
    )


def _evaluations(run: Path) -> Iterator[Evaluation]:
    """A run's own test, then all that it keeps, the latest first; of its present weights alone."""
    folders = [run, *sorted((run / FOLDER).glob("*/"), reverse=True)]
    now = tensors_of(run)
    for folder in folders:
        try:
            about = read_json(folder / EVALUATION.document)
            metrics = Metrics.from_dict(about)
        except DataError:
            continue  # none, or being written, or damaged: others stand by themselves
        if about.get("tensors") in (None, now):
            yield Evaluation(run, folder, metrics, about)
