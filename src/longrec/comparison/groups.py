"""Which runs are which rows of a report: those that differ in their seed alone are one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from longrec.artifact.folder import RECOMMENDER
from longrec.comparison.plan import COMPARISON
from longrec.comparison.read_runs import read_json
from longrec.comparison.results import collect
from longrec.core.errors import DataError, UsageError
from longrec.core.format import listed
from longrec.evaluation.report.contents import ReportRow
from longrec.models.common.settings import stored_settings


@dataclass(frozen=True)
class Group:
    """Runs of one row, and files with what the processes that trained them used."""

    name: str
    runs: list[Path]
    memory: list[Path]


def groups_of(folders: Sequence[Path]) -> tuple[list[Group], list[ReportRow]]:
    """Rows to make of folders of runs and comparisons, and the bounds that comparisons have.

    Raises
    ------
    UsageError
        When there is none, or one is named twice.
    DataError
        When one holds neither.
    """
    if not folders:
        raise UsageError("no run to report on: name one or more folders")
    groups, bounds, single = list[Group](), list[ReportRow](), list[Path]()
    for folder in folders:
        if (folder / COMPARISON.document).is_file():
            found = collect(folder)
            bounds += [row for row in found.rows if not row.is_system]
            for name, runs in found.runs.items():
                memory = [folder / "logs" / run.name / "train.json" for run in runs]
                groups.append(Group(name, runs, memory))
        else:
            single.append(folder)
    every = [run.resolve() for group in groups for run in group.runs]
    every += [run.resolve() for run in single]
    twice = {str(run) for run in every if every.count(run) > 1}
    if twice:
        raise UsageError(f"named twice: {listed(sorted(twice))}; name each run once")
    groups += _by_seed(single)
    names = [group.name for group in groups]
    same = {name for name in names if names.count(name) > 1}
    if same:  # a comparison's row and another run
        groups = [replace(g, name=str(g.runs[0])) if g.name in same else g for g in groups]
    return groups, bounds


def _by_seed(runs: Sequence[Path]) -> Iterator[Group]:
    """Runs of the same model and settings but for the seed, together."""
    together: dict[str, list[tuple[int, Path]]] = {}
    names = _short_names(runs)
    for run in runs:
        try:
            document = read_json(run / RECOMMENDER.document)
            settings = stored_settings(document["train_config"])
            key = repr((document["model"], document["model_config"], settings | {"seed": 0}))
            about = read_json(run / "provenance.json")
            seed = settings["seed"]
        except (DataError, KeyError, TypeError):
            raise DataError(
                f"{run} holds no run that has ended: `longrec train HISTORIES --out RUN` makes one"
            ) from None
        if "warm_start" in about or any(seed == other for other, _ in together.get(key, ())):
            key = str(run)
        together.setdefault(key, []).append((seed, run))
    for members in together.values():
        own = [run for _, run in members]
        yield Group(_common([names[run] for run in own]), own, [])


def _common(names: Sequence[str]) -> str:
    """What names of one model's seeds have in common: "sasrec-0", "sasrec-1" are "sasrec"."""
    begin = {re.sub(r"[-_. ]*(seed)?[-_. ]*[0-9]+$", "", name) for name in names}
    return begin.pop() or names[0] if len(begin) == 1 and len(names) > 1 else " + ".join(names)


def _short_names(runs: Sequence[Path]) -> dict[Path, str]:
    """The last parts of paths, as many as tell them apart."""
    parts = {run: run.resolve().parts for run in runs}
    most = max((len(own) for own in parts.values()), default=1)
    for count in range(1, most + 1):
        names = {run: "/".join(own[-count:]) for run, own in parts.items()}
        if len(set(names.values())) == len(names):
            break
    return names
