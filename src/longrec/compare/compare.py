"""`longrec compare`: train and evaluate models under equal budgets, each in its own process.

FOLDER/
  compare.json    what is compared; the same call goes on, with more models or seeds if wanted
  runs/NAME/      a run as `longrec train` and `longrec evaluate` leave it
  logs/NAME/      what its processes said (train.txt, evaluate.txt), and their memory (train.json)
  results.json, results.csv, report.html    written again after every run
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from longrec.artifact.provenance import provenance
from longrec.compare.plan import Job, Plan, models_of, read_plan, settings_text
from longrec.compare.process import run_process
from longrec.compare.report import write_results
from longrec.compare.results import Comparison, Failure, Stage, collect, evaluated, trained
from longrec.core import console
from longrec.core.errors import UsageError
from longrec.core.lock import held
from longrec.data.histories import Histories, open_histories
from longrec.evaluation.report.contents import ReportRow

STAGES: tuple[Stage, ...] = ("training", "evaluation")


def compare(
    histories: Histories | str | Path,
    models: str | Sequence[str],
    budget: float,
    out: str | Path,
    *,
    settings: Mapping[str, Any] | None = None,
    seeds: int = 1,
    device: str = "auto",
    bounds: Sequence[ReportRow] = (),
    progress: bool | None = None,
) -> Comparison:
    """Train and evaluate models on the same histories under equal budgets, and write a report.

    Every run is a process of its own, so that what goes wrong in one loses nothing of the others;
    runs that failed are in the result's `failures`. The same call goes on with what was interrupted
    or failed, and keeps what has ended.

    Parameters
    ----------
    histories : Histories or path
    models : str or sequence of str
        Names of the registry, or variants of them: "elastic:memory_slots=4096:memory_topk=8".
    budget : float
        Minutes of training for each run, validation included.
    out : path
        The comparison's folder.
    settings : mapping or None
        Common to all models: keys of TrainConfig or of the models' configs.
    seeds : int
        Trainings of each model, with the seeds 0, 1, …; metrics are their mean.
    device : str
        As in `train`.
    bounds : sequence of ReportRow
        Further rows of kind "ceiling" or "bound", for data of which they are known.
    progress : bool or None
        Whether to tell on standard error what runs; None does so in a terminal or a notebook.

    Returns
    -------
    Comparison

    Raises
    ------
    UsageError
        For an unknown model, key or value, before anything is run; for a folder that holds
        something else or another comparison.
    """
    data = histories if isinstance(histories, Histories) else open_histories(histories)
    folder, texts = Path(out), settings_text(settings or {})
    plan = Plan(
        histories=str(data.path.resolve()),
        fingerprint=data.fingerprint,
        models=models_of(models),
        budget=float(budget),
        settings=texts,
        seeds=seeds,
        device=device,
        threads=torch.get_num_threads(),
    )
    for row in bounds:
        if row.contends:
            raise UsageError(f"bounds are of the kind ceiling or bound; {row.name!r} is a model")
    jobs = plan.jobs(folder)
    read_plan(folder)  # refuses a folder with other things before anything is written to it
    with held(folder, "comparison"):
        begun = read_plan(folder)
        if begun is not None:
            plan.check_continues(begun, folder)
        plan.keep(folder)
        made = _made(data)
        tell = console.is_interactive() if progress is None else progress
        failures: list[Failure] = []

        def show() -> Comparison:
            found = collect(folder, bounds, failures)
            write_results(found, made)
            return found

        found = show()
        todo = [job for job in jobs if not evaluated(job, plan)]
        if tell and len(todo) < len(jobs):
            console.say(f"{len(jobs) - len(todo)} of {len(jobs)} runs have ended already")
        for number, job in enumerate(todo, start=1):
            failure = _run(job, plan, f"{number} of {len(todo)}", tell)
            if failure is not None:
                failures.append(failure)
            found = show()
    return found


def _run(job: Job, plan: Plan, place: str, tell: bool) -> Failure | None:
    """Train and evaluate, unless that is done; what went wrong, or None."""
    label = job.entry.name + (f", seed {job.seed}" if plan.seeds > 1 else "")
    for stage in STAGES:
        if stage == "training" and trained(job):
            continue
        verb = "train" if stage == "training" else "evaluate"
        log = job.logs / f"{verb}.txt"
        call = ["--threads", str(plan.threads), verb]
        call += _training(job, plan) if stage == "training" else _evaluation(job, plan)
        with _watching(f"{place}: {label}, {stage}", job, plan, stage, tell) as tick:
            error = run_process(call, log, job.logs / f"{verb}.json", tick)
        done = trained(job) if stage == "training" else evaluated(job, plan)
        if error is None and not done:
            error = "it ended well and left no result"
        if error is not None:
            if tell:
                console.say(f"{label} failed in {stage}: {error}")
            return Failure(job.entry.name, job.seed, stage, error, log)
    return None


def _training(job: Job, plan: Plan) -> list[str]:
    settings = job.entry.settings | {"seed": str(job.seed)}
    call = [plan.histories, "--model", job.entry.model, "--out", str(job.run)]
    call += ["--device", plan.device]
    for key, value in settings.items():
        call += ["--set", f"{key}={value}"]
    return [*call, "--resume"] if (job.run / "training.json").is_file() else call


def _evaluation(job: Job, plan: Plan) -> list[str]:
    return [str(job.run), "--data", plan.histories]


@contextmanager
def _watching(
    what: str, job: Job, plan: Plan, stage: Stage, tell: bool
) -> Iterator[Callable[[], None]]:
    """Tell what runs; in a terminal a bar of the budget, with the last validation."""
    if not tell:
        yield lambda: None
        return
    console.say(what)
    if stage != "training":
        with console.err.status(what):
            yield lambda: None
        return
    began, log = time.monotonic(), job.run / "log.csv"
    with console.progress_bar(what) as shown:

        def tick() -> None:
            lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
            last = (
                dict(zip(lines[0].split(","), lines[-1].split(","), strict=False))
                if lines[1:]
                else {}
            )
            known = f"  epoch {last['epoch']}, NDCG@10 {float(last['ndcg10']):.4f}" if last else ""
            spent = min(time.monotonic() - began, 60 * plan.budget)
            shown(spent, 60 * plan.budget, what + known)

        yield tick


def _made(data: Histories) -> dict[str, str]:
    """Command, machine and versions, in words."""
    about = provenance(data, 0)
    machine = about["machine"]
    gpu = "" if machine["gpu"] is None else f", {machine['gpu']}"
    return {
        "command": about["command"],
        "data": f"{data.n_users:,} users, {data.n_items:,} items, {data.n_events:,} events",
        "machine": f"{machine['processor']}, {machine['cores']} cores{gpu}",
        "versions": ", ".join(f"{k} {v}" for k, v in about["versions"].items()),
        "commit": str(about["commit"] or "installed package"),
        "time": about["started"],
    }
