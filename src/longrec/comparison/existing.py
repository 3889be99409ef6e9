"""`longrec report`: runs that exist, compared by their evaluations; nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import polars as pl

from longrec.artifact.folder import RECOMMENDER
from longrec.artifact.provenance import command
from longrec.comparison.document import results_document, statement_of, summary_table
from longrec.comparison.evaluated import Asked, Evaluation, chosen
from longrec.comparison.examples import examples
from longrec.comparison.groups import Group, groups_of
from longrec.comparison.read_runs import made_with, read_json, read_ranks, report_row
from longrec.comparison.report import data_text
from longrec.core.arguments import check_path, check_text
from longrec.core.choices import ExcludeSeen, ProtocolName, SplitName, check_choice
from longrec.core.errors import DataError, UsageError
from longrec.core.shown import html_table, html_text
from longrec.data.histories import Histories, as_histories
from longrec.data.item_table import ItemTable, as_item_table
from longrec.evaluation.report.contents import Report, ReportRow, by_value
from longrec.evaluation.report.opening import opening
from longrec.evaluation.report.page import write_report
from longrec.evaluation.report.pairs import Pair, compare_pairs, corrected
from longrec.evaluation.summary import LEADING
from longrec.recommender import Recommender

WANTED = "the path of an .html or .md file"
MOST_EXAMPLES = 4
"""Systems whose lists are shown side by side, the best ones."""


@dataclass(frozen=True, eq=False)
class Reported:
    """A report that was written, and what it says.

    Attributes
    ----------
    path : the page.
    metric : key of the metric that leads; rows are in its order.
    rows : systems, the best first, converged or not, then bounds.
    pairs : paired tests between systems.
    summary : the report's first sentences: "data", "question", "answer", "undecided".
    runs : folders of the runs behind each row.
    """

    path: Path
    metric: str
    rows: list[ReportRow]
    pairs: list[Pair]
    summary: dict[str, str]
    runs: dict[str, list[Path]]

    def __repr__(self) -> str:
        return f"Reported({str(self.path)!r}: {len(self.rows)} rows by {self.metric})"

    def _repr_html_(self) -> str:
        texts = [html_text(f"{name.capitalize()}: {text}") for name, text in self.summary.items()]
        return html_table(str(self.path), *summary_table(self.rows)) + "".join(texts)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        found = results_document(self.rows, self.pairs, self.runs, self.metric)
        return {"report": str(self.path), "summary": self.summary} | found


def report(
    runs: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    data: Histories | str | Path | None = None,
    split: SplitName = "test",
    protocol: str | None = None,
    exclude_seen: ExcludeSeen | None = None,
    items: ItemTable | pl.DataFrame | str | Path | None = None,
    title: str | None = None,
) -> Reported:
    """Compare runs that were trained and evaluated, and write a report.

    Runs that differ in their seed alone are one row. Baselines that an evaluation has measured
    beside a run are rows, too.

    Parameters
    ----------
    runs : path or sequence of path
        Folders of runs, or of comparisons, which stand for their runs.
    out : path
        The report: HTML (.html), or Markdown (.md).
    data : Histories, path or None
        Of which histories the evaluations are to be; None: of those that each run has.
    split, protocol : str or None
        Which evaluations; None: as each run was tested.
    exclude_seen : bool, "auto" or None
        The policy as served: True or False of all; "auto": each run by its own; None: that of the
        runs, which must be the same.
    items : frame, path or None
        A table with the columns item and title, in a CSV, JSON lines or Parquet file; None: titles
        are those of the events, where they have a column of some.
    title : str or None
        The page's heading.

    Returns
    -------
    Reported

    Raises
    ------
    DataError
        When a folder holds no run or lacks such an evaluation.
    UsageError
        When the evaluations are not of the same data, protocol, split and policy.
    """
    path = check_path("out", out, WANTED)
    if path.suffix.lower() not in (".html", ".htm", ".md"):
        raise UsageError(f"out is {path}; give {WANTED}")
    folders = _folders(runs)
    check_choice("split", split, SplitName)
    if protocol is not None:
        check_choice("protocol", protocol, ProtocolName)
    if exclude_seen is not None and not isinstance(exclude_seen, bool):
        check_choice("exclude_seen", exclude_seen, Literal["auto"])
    check_text("title", title)
    given = None if data is None else as_histories("data", data)
    groups, bounds = groups_of(folders)
    every = [run for group in groups for run in group.runs]
    asked = Asked(split, given, protocol, exclude_seen)
    evaluations = dict(zip(every, chosen(every, asked), strict=True))
    names = evaluations[every[0]].about["provenance"]["data"].get("names", {})
    table = None if items is None else as_item_table(items, names.get("item"))
    rows, ranks = list[ReportRow](), {}
    for group in groups:
        places = [evaluations[run].folder for run in group.runs]
        row = report_row(group.runs, group.name, group.memory, places)
        model = read_json(group.runs[0] / RECOMMENDER.document)["model"]
        rows.append(row if model in group.name else replace(row, note=model))
        ranks[group.name] = [read_ranks(place) for place in places]
    rows = by_value(rows, LEADING)
    in_order = {row.name: ranks[row.name] for row in rows}  # the better one first in a pair
    found = compare_pairs(in_order, LEADING, {row.name for row in rows if row.is_tested})
    beside, leads = _baselines(groups, evaluations)
    if beside:
        differences = {(pair.a, pair.b): pair.difference for pair in found} | leads
        tested = {row.name for row in (*rows, *beside) if row.is_tested}
        found = corrected(differences, tested)
    rows = by_value([*rows, *beside, *bounds], LEADING)
    first = evaluations[every[0]]
    histories = given or _histories(first)
    about = first.about["provenance"]["data"]
    folder_of = {group.name: group.runs[0] for group in groups}
    shown = _examples(histories, rows, folder_of, first, asked, table)
    facts = {
        "command": command(),
        "histories": f"{about['path']}, fingerprint {first.fingerprint}",
        **{str(run): made_with(run) for run in every},
    }
    page = Report(
        title or f"Runs on {Path(about['path']).name}",
        rows,
        shown[0],
        facts,
        statement_of(rows),
        found,
        data=f"{Path(about['path']).name}: {data_text(about)}",
        titles=shown[1],
    )
    write_report(path, page)
    names = {group.name: group.runs for group in groups}
    return Reported(path, LEADING, rows, found, opening(page, LEADING), names)


def _folders(runs: Any) -> list[Path]:
    """One or several paths of folders."""
    several = runs if isinstance(runs, list | tuple) else [runs]
    return [check_path("runs", run, "folders of runs") for run in several]


def _baselines(
    groups: Sequence[Group], evaluations: Mapping[Path, Evaluation]
) -> tuple[list[ReportRow], dict[tuple[str, str], Any]]:
    """Rows of baselines that evaluations have measured, and how far runs are ahead of them."""
    rows: dict[str, ReportRow] = {}
    leads = {}
    counted = {read_json(g.runs[0] / RECOMMENDER.document)["model"] for g in groups}
    for group in groups:
        for name, one in evaluations[group.runs[0]].metrics.baselines.items():
            if name in counted:
                continue
            drawn = f"on {one.targets:,} of the {one.of:,} targets, drawn"
            note = drawn if one.targets < one.of else ""
            rows.setdefault(name, ReportRow(name, "baseline", one, note=note))
            if one.lead is not None and len(group.runs) == 1:
                leads[group.name, name] = one.lead
    return list(rows.values()), leads


def _histories(evaluation: Evaluation) -> Histories | None:
    """The histories that were evaluated, where they are still there as they were."""
    about = evaluation.about["provenance"]["data"]
    with suppress(DataError, UsageError):
        histories = as_histories("data", about["path"])
        if histories.fingerprint == evaluation.fingerprint:
            return histories
    return None


def _examples(
    histories: Histories | None,
    rows: Sequence[ReportRow],
    folder_of: Mapping[str, Path],
    evaluation: Evaluation,
    asked: Asked,
    table: ItemTable | None,
) -> Any:
    """Lists of the best systems for a few users, where there is something to make them from."""
    best = [row.name for row in rows if row.name in folder_of][:MOST_EXAMPLES]
    models = {name: Recommender.load(folder_of[name]) for name in best}
    models = {name: one for name, one in models.items() if "refit" not in one.provenance}
    if histories is None or not models:
        return [], {}
    metrics = evaluation.metrics
    policy = None if asked.exclude_seen == "auto" else metrics.exclude_seen
    return examples(histories, models, asked.split, metrics.protocol, metrics.cut, policy, table)
