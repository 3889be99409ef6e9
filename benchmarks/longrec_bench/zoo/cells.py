"""A cell of the zoo: one training of a model on a log, as a JSON file that can be committed.

It holds what a table quotes and what a number must be quoted with: aggregates alone, no row of the
log, no rank and no path.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from longrec.artifact.provenance import commit
from longrec.comparison.read_runs import read_json, read_ranks, report_row
from longrec.core.errors import UsageError
from longrec.core.files import write_file
from longrec.core.machine import machine, versions
from longrec.evaluation.report.pairs import compare_pairs
from longrec.evaluation.summary import LEADING
from longrec.models import MODELS
from longrec_bench.zoo.run import Job

FORMAT = 1
Cell = dict[str, Any]
_SHARED = ("minutes", "settings", "fingerprint")
"""What a table has one of."""
_KEPT = ("counts", "exclude_seen", "protocol", "split", "statement")


def write_cells(job: Job, out: Path) -> list[Cell]:
    """Write a cell for each seed of a job that has ended."""
    found = job.ended()
    assert found is not None
    cells = []
    for [name, runs] in found.runs.items():
        for seed, run in enumerate(runs):
            logs = job.folder / "logs" / run.name / "train.json"
            row = report_row([run], name, [logs])
            cost, metrics, about = row.cost, row.metrics, read_json(run / "provenance.json")
            config = read_json(run / "config.json")
            whole = metrics.to_dict()  # type: ignore[attr-defined]
            cell = _heading(job, seed) | {
                "config": {**config["model_config"], **config["train_config"]},
                "converged": bool(row.converged),
                "ended": row.ended,
                **{"epochs": cost.epochs, "seconds": cost.seconds},
                **{"events_per_second": cost.events_per_second, "peak_bytes": cost.peak_bytes},
                **{"parameters": cost.parameters, "kept_bytes": cost.kept_bytes},
                "keeps": cost.keeps,
                "metrics": dict(metrics),
                "intervals": {k: list(ends) for k, ends in whole["intervals"].items()},
                "by_length": [_bucket(one) for one in whole["buckets"]],
                **{key: whole[key] for key in _KEPT},
                **{"command": job.command(seed), "fingerprint": found.plan.fingerprint},
                **{key: about[key] for key in ("commit", "machine", "versions", "started")},
            }
            _write(_path(job, seed, out), cell)
            cells.append(cell)
    return cells


def write_failure(job: Job, error: str, out: Path) -> Cell:
    """Write a cell that says why there is nothing; it is tried again by the next call.

    Seeds that have a number keep it.
    """
    seed = next(seed for seed in range(job.seeds) if not _has_number(_path(job, seed, out)))
    about = {"machine": machine(), "versions": versions(), "commit": commit()}
    started = datetime.now(UTC).isoformat(timespec="seconds")
    cell = _heading(job, seed) | {"failed": error, **about, "started": started}
    cell |= {"command": job.command(seed), "fingerprint": job.log.histories.fingerprint}
    _write(_path(job, seed, out), cell)
    return cell


def is_finished(job: Job, out: Path) -> bool:
    """Whether all cells of a job are there with a number."""
    return all(_has_number(_path(job, seed, out)) for seed in range(job.seeds))


def check_table(job: Job, out: Path) -> None:
    """Raise UsageError where what stands in the folder is of another table than this job.

    A table has one budget, one choice of common settings and one form of each log.
    """
    path = out / job.log.name / "log.json"
    cells = read_cells(out).get(job.log.name, [])
    for cell in cells:
        if cell["model"] not in MODELS:
            raise UsageError(
                f"{path.parent} has a cell of {cell['model']!r}, and there is no such model: name "
                "its module by --plugin, or remove the cell"
            )
    if all("failed" in cell for cell in cells):
        return
    begun = {"settings": {}} | read_json(path)  # at first none were kept
    for key, own in _facts(job).items():
        if key in _SHARED and begun[key] != own:
            raise UsageError(
                f"{path} was made with {key} {_told(begun[key])}, not {_told(own)}: a table has "
                "one for all models, so write this one to another folder"
            )


def read_cells(out: Path) -> dict[str, list[Cell]]:
    """Cells by log, in the order of their names."""
    return {
        folder.name: [
            read_json(path)
            for path in sorted(folder.glob("*.json"))
            if path.name != "log.json" and not path.name.startswith("pairs-")
        ]
        for folder in sorted(out.glob("*/"))
        if (folder / "log.json").is_file()
    }


def write_log(job: Job, out: Path) -> None:
    """Write what is said of a log."""
    _write(out / job.log.name / "log.json", _facts(job))


def write_pairs(jobs: Sequence[Job], pairs: Sequence[tuple[str, str]], out: Path) -> None:
    """Test pairs of models on a log by their ranks in the work folder, target by target.

    Parameters
    ----------
    jobs : of one log and recipe.
    pairs : names (a, b): a minus b is told, corrected (Holm) for all that are.
    out : of the cells.
    """
    ended = {job.model: found for job in jobs if (found := job.ended()) is not None}
    ranks = {n: [read_ranks(run) for run in c.runs[c.rows[0].name]] for n, c in ended.items()}
    ranked = {name for name, found in ended.items() if found.rows[0].is_tested}
    known = [(a, b) for a, b in pairs if a in ranks and b in ranks]
    tested = compare_pairs(ranks, LEADING, ranked, known)
    if not tested:
        return
    lines = [
        {"a": a, "b": b, "mean": d.mean, "low": d.low, "high": d.high, "p_holm": p}
        for a, b, d, p in tested
    ]
    job, about = jobs[0], {"metric": LEADING, "commit": commit()}
    whole = {**about, "recipe": job.plan.recipe, "pairs": lines}
    _write(out / job.log.name / f"pairs-{job.plan.recipe}.json", whole)


def read_pairs(out: Path, log: str) -> list[dict[str, Any]]:
    """The tests of a log, by recipe; none where it has none."""
    return [read_json(path) for path in sorted((out / log).glob("pairs-*.json"))]


def _facts(job: Job) -> Cell:
    """What all cells of a log share."""
    return job.log.facts | {"minutes": job.plan.minutes, "settings": job.plan.common}


def _told(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return " ".join(f"{k}={v}" for k, v in value.items()) or "left as they are"


def _has_number(path: Path) -> bool:
    return path.is_file() and "failed" not in read_json(path)


def _heading(job: Job, seed: int) -> Cell:
    about = {"format": FORMAT, "log": job.log.name, "model": job.model}
    about |= {"recipe": job.plan.recipe, "needed": job.needed}
    return about | {"seed": seed, "minutes": job.plan.minutes}


def _path(job: Job, seed: int, out: Path) -> Path:
    return out / job.log.name / f"{job.model}-{job.plan.recipe}-{seed}.json"


def _bucket(bucket: Mapping[str, Any]) -> dict[str, Any]:
    """Users of a length: what leads, with its interval."""
    about = {key: bucket[key] for key in ("label", "users", "targets")}
    return about | {LEADING: bucket[LEADING], "interval": list(bucket["intervals"][LEADING])}


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def pairs_of(names: Sequence[str], linear: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What both papers claim: HydraRec against linear models and BERT4Rec, ELASTIC against all."""
    yield from (("hydrarec", n) for n in names if n != "hydrarec" and n in (*linear, "bert4rec"))
    yield from (("elastic", n) for n in names if n not in ("elastic", "hydrarec"))
