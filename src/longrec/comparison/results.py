"""What a comparison's folder holds so far, read from the folders of its runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from longrec.artifact.folder import evaluated_tensors, tensors_of
from longrec.comparison.document import results_document, statement_of
from longrec.comparison.plan import Job, Plan, read_plan
from longrec.comparison.read_runs import read_json, read_ranks, report_row
from longrec.core.errors import DataError
from longrec.core.format import duration
from longrec.core.shown import html_table, html_text
from longrec.evaluation.metrics import CUTOFFS
from longrec.evaluation.report.contents import ReportRow, by_value
from longrec.evaluation.report.pairs import Pair, compare_pairs
from longrec.evaluation.summary import LEADING, Metrics, label
from longrec.models.common.settings import stored_settings

FORMAT = 1
Phase = Literal["training", "evaluation"]


@dataclass(frozen=True)
class Failure:
    """A run that went wrong: which, in which phase, why, and the file with all that it printed."""

    name: str
    seed: int
    phase: Phase
    error: str
    log: Path

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, as results.json has them."""
        about = {"name": self.name, "seed": self.seed, "stage": self.phase}
        return about | {"error": self.error, "log": str(self.log)}


@dataclass(frozen=True, eq=False)
class Comparison:
    """Models compared under equal budgets.

    Attributes
    ----------
    folder : with results.json, results.csv, report.html and the runs.
    metric : key of the metric that leads; rows are in its order.
    rows : systems, the best first, converged or not, then bounds.
    pairs : paired tests between rows, the better one first.
    failures : runs that went wrong.
    waiting : names of models without a result whose runs are still to come.
    runs : folders of the runs behind each row.
    """

    folder: Path
    plan: Plan
    metric: str
    rows: list[ReportRow]
    pairs: list[Pair]
    failures: list[Failure]
    waiting: list[str]
    runs: dict[str, list[Path]] = field(default_factory=dict)

    @property
    def report(self) -> Path:
        """The page."""
        return self.folder / "report.html"

    @property
    def statement(self) -> str:
        """How the numbers were made, in words; empty without a result."""
        return statement_of(self.rows)

    def __repr__(self) -> str:
        found = [f"{row.name} {row.metrics[self.metric]:.4f}" for row in self.rows[:3]]
        more = len(self.rows) - len(found)
        found += [f"{more} more"] if more else []
        found += [f"{len(self.failures)} failed"] if self.failures else []
        return (
            f"Comparison({str(self.folder)!r}: {self.metric} {', '.join(found) or 'of none yet'})"
        )

    def _repr_html_(self) -> str:
        rows = []
        for row in self.rows:
            low_high = row.interval(self.metric)
            between = "" if low_high is None else "{:.4f} to {:.4f}".format(*low_high)
            state = "not converged" if row.converged is False else row.ended
            seconds = "" if row.cost.seconds is None else duration(row.cost.seconds)
            rows.append([row.name, row.metrics[self.metric], between, state, seconds])
        head = ["", label(self.metric), "95% interval", "training ended", "time"]
        found = html_table(f"comparison {self.folder}", head, rows)
        if self.failures:
            errors = [[one.name, one.phase, one.error] for one in self.failures]
            found += html_table("failed", ["", "in", "error"], errors)
        if self.waiting:
            found += html_text(f"still to come: {', '.join(self.waiting)}")
        return found + html_text(self.statement) + html_text(f"The report: {self.report}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: what results.json holds."""
        return {
            "format": FORMAT,
            "plan": asdict(self.plan),
            **results_document(self.rows, self.pairs, self.runs, self.metric),
            "failures": [failure.to_dict() for failure in self.failures],
            "waiting": self.waiting,
        }


def is_trained(job: Job) -> bool:
    """Whether a run's training has ended."""
    return (job.run / "config.json").is_file()


def is_evaluated(job: Job, plan: Plan) -> bool:
    """Whether a run has ended and its test targets were ranked on the plan's data."""
    if not is_trained(job) or not (job.run / "ranks.parquet").is_file():
        return False
    if evaluated_tensors(job.run) not in (None, tensors_of(job.run)):
        return False
    try:
        metrics = read_json(job.run / "metrics.json")
        trained = read_json(job.run / "config.json")["train_config"]
        data = metrics["provenance"]["data"]["fingerprint"]
        return bool(
            metrics["split"] == "test"
            and metrics["protocol"] == stored_settings(trained)["protocol"]
            and set(CUTOFFS) <= set(metrics["ks"])
            and data == plan.fingerprint
        )
    except (DataError, KeyError, TypeError):
        return False


def collect(
    folder: Path, bounds: Sequence[ReportRow] = (), failures: Sequence[Failure] = ()
) -> Comparison:
    """Read what a comparison's folder holds.

    Parameters
    ----------
    folder
        Of a comparison that was begun.
    bounds
        Rows of kind "ceiling" or "bound"; those of an earlier results.json if none are given.
    failures
        What went wrong in this call; such runs are not waited for.
    """
    plan = read_plan(folder)
    if plan is None:
        raise DataError(f"{folder} holds no comparison: make one with `longrec compare`")
    jobs = plan.jobs(folder)
    ended = [job for job in jobs if is_evaluated(job, plan)]
    runs: dict[str, list[Path]] = {}
    for job in ended:
        runs.setdefault(job.entry.name, []).append(job.run)
    memory = {job.run: job.logs / "train.json" for job in ended}
    rows = [report_row(own, name, [memory[run] for run in own]) for name, own in runs.items()]
    rows += bounds or _earlier_bounds(folder)
    metric = LEADING
    rows = by_value(rows, metric)
    ranks = {row.name: [read_ranks(r) for r in runs[row.name]] for row in rows if row.is_system}
    failed = {failure.name for failure in failures}
    return Comparison(
        folder,
        plan,
        metric,
        rows,
        compare_pairs(ranks, metric, {row.name for row in rows if row.is_tested}),
        list(failures),
        [name for name in plan.models if name not in runs and name not in failed],
        runs,
    )


def _earlier_bounds(folder: Path) -> list[ReportRow]:
    """The bounds that an earlier call was given."""
    path = folder / "results.json"
    if not path.is_file():
        return []
    return [
        ReportRow(
            bound["name"],
            bound["kind"],
            Metrics.from_dict(bound["metrics"])
            if "intervals" in bound["metrics"]
            else bound["metrics"],
        )
        for bound in read_json(path)["bounds"]
    ]
