"""`longrec compare`: train and evaluate models under equal budgets, each in its own process.

FOLDER/
  compare.json    what is compared; the same call goes on, with more models or seeds if wanted
  runs/NAME/      a run as `longrec train` and `longrec evaluate` leave it
  logs/NAME/      what its processes print (train.txt, evaluate.txt), and their memory (train.json)
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
from longrec.comparison.plan import (
    Job,
    Plan,
    clear,
    model_texts,
    read_plan,
    setting_texts,
    with_baselines,
)
from longrec.comparison.process import run_process
from longrec.comparison.report import provenance_facts, write_results
from longrec.comparison.results import Comparison, Failure, Phase, collect, is_evaluated, is_trained
from longrec.config.toml_file import read_config_file
from longrec.core import console
from longrec.core.arguments import check_count, check_flag, check_path, check_shown, described
from longrec.core.errors import UsageError
from longrec.core.lock import locked
from longrec.data.histories import Histories, as_histories
from longrec.evaluation.report.contents import ReportRow
from longrec.runs.carry_out import find_device
from longrec.training.checkpoint import drop_checkpoints

COMMANDS: dict[Phase, str] = {"training": "train", "evaluation": "evaluate"}
"""The command of each phase of a run."""


def compare(
    histories: Histories | str | Path,
    models: str | Sequence[str],
    budget: float,
    out: str | Path,
    *,
    settings: Mapping[str, Any] | None = None,
    config: str | Path | None = None,
    seeds: int = 1,
    device: str = "auto",
    bounds: Sequence[ReportRow] = (),
    baselines: bool = True,
    overwrite: bool = False,
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
        "auto" is what `train(recipe="auto")` trains. A model of one's own is defined in a module
        that can be imported.
    budget : float
        Minutes of training for each run, validation included.
    out : path
        The comparison's folder.
    settings : mapping or None
        Common to all models: keys of TrainConfig or of the models' configs.
    config : path or None
        A TOML file with such settings; those that are given beside it win.
    seeds : int
        Trainings of each model, with the seeds 0, 1, …; metrics are their mean.
    device : str
        As in `train`.
    bounds : sequence of ReportRow
        Further rows of kind "ceiling" or "bound", for data of which they are known.
    baselines : bool
        Whether to compare `longrec.runs.baselines.BASELINES` as well, which are counted in seconds.
    overwrite : bool
        Whether a comparison that stands in `out` is removed first, with its runs, instead of gone
        on with.
    progress : bool or None
        Whether to show on standard error what runs; None does so in a terminal or a notebook.

    Returns
    -------
    Comparison

    Raises
    ------
    UsageError
        For an unknown model, key or value, before anything is run; for a folder that holds
        something else or another comparison.
    """
    data = as_histories("histories", histories)
    folder = check_path("out", out)
    if not isinstance(budget, int | float):
        raise UsageError(f"budget is {described(budget)}; give minutes of training for each run")
    seeds = check_count("seeds", seeds)
    check_flag("baselines", baselines)
    check_flag("overwrite", overwrite)
    check_shown(progress)
    find_device(device)
    if settings is not None and not isinstance(settings, Mapping):
        raise UsageError(f"settings is {described(settings)}; give a mapping from keys to values")
    if not isinstance(bounds, list | tuple) or not all(isinstance(b, ReportRow) for b in bounds):
        raise UsageError(f"bounds is {described(bounds)}; give a list of ReportRow")
    common = dict(settings or {})
    if config is not None:
        of_file = read_config_file(check_path("config", config, "the path of a TOML file"))
        if of_file.model is not None:
            raise UsageError(f"{of_file.path} names a model: a comparison takes them from models=")
        common = of_file.settings | common
    plan = Plan(
        histories=str(data.path.resolve()),
        fingerprint=data.fingerprint,
        models=with_baselines(model_texts(models)) if baselines else model_texts(models),
        budget=float(budget),
        settings=setting_texts(common),
        seeds=seeds,
        device=device,
        threads=torch.get_num_threads(),
    )
    for row in bounds:
        if row.is_system:
            raise UsageError(f"bounds are of the kind ceiling or bound; {row.name!r} is a model")
    jobs = plan.jobs(folder)
    read_plan(folder)  # refuses a folder with other things before anything is written to it
    with locked(folder, "comparison"):
        begun = read_plan(folder)
        if overwrite:
            clear(folder)
        elif begun is not None:
            plan.check_continues(begun, folder)
        plan.write(folder)
        facts = provenance_facts(provenance(data, 0))
        show_progress = console.is_interactive() if progress is None else progress
        failures: list[Failure] = []

        def write_comparison() -> Comparison:
            comparison = collect(folder, bounds, failures)
            write_results(comparison, facts)
            return comparison

        comparison = write_comparison()
        remaining = [job for job in jobs if not is_evaluated(job, plan)]
        if show_progress and len(remaining) < len(jobs):
            console.say(f"{len(jobs) - len(remaining)} of {len(jobs)} runs have ended already")
        for number, job in enumerate(remaining, start=1):
            position = f"{number} of {len(remaining)}"
            failure = _run(job, plan, position, show_progress)
            if failure is not None:
                failures.append(failure)
            comparison = write_comparison()
    return comparison


def _run(job: Job, plan: Plan, position: str, show_progress: bool) -> Failure | None:
    """Train and evaluate, unless that is done; what went wrong, or None."""
    label = job.entry.name + (f", seed {job.seed}" if plan.seeds > 1 else "")
    phases: tuple[Phase, ...] = ("training", "evaluation")
    for phase in phases[1:] if is_trained(job) else phases:
        command = COMMANDS[phase]
        log, memory = job.logs / f"{command}.txt", job.logs / f"{command}.json"
        with _progress(f"{position}: {label}, {phase}", job, plan, phase, show_progress) as tick:
            error = run_process(_arguments(job, plan, phase), log, memory, tick)
        done = is_trained(job) if phase == "training" else is_evaluated(job, plan)
        if phase == "training" and done:
            drop_checkpoints(job.run)  # more time for one alone would be no equal budget
        if error is None and not done:
            error = "it ended well and left no result"
        if error is not None:
            if show_progress:
                console.say(f"warning: {label} failed in {phase}: {error}")
            return Failure(job.entry.name, job.seed, phase, error, log)
    return None


def _arguments(job: Job, plan: Plan, phase: Phase) -> list[str]:
    """What follows `longrec` on the command line of one phase of a run."""
    arguments = ["--threads", str(plan.threads), COMMANDS[phase]]
    if job.entry.plugin is not None:
        arguments += ["--plugin", job.entry.plugin]
    if phase == "evaluation":
        # Baselines are rows of the comparison, if they are wanted.
        return [*arguments, str(job.run), "--data", plan.histories, "--no-baselines"]
    arguments += [plan.histories, "--out", str(job.run), "--device", plan.device]
    arguments += ["--recipe", job.entry.recipe]
    if job.entry.model is not None:
        arguments += ["--model", job.entry.model]
    for key, value in (job.entry.settings | {"seed": str(job.seed)}).items():
        arguments += ["--set", f"{key}={value}"]
    return [*arguments, "--resume"] if (job.run / "training.json").is_file() else arguments


@contextmanager
def _progress(
    description: str, job: Job, plan: Plan, phase: Phase, show: bool
) -> Iterator[Callable[[], None]]:
    """Say what runs; in a terminal a bar of the budget, with the last validation."""
    if not show:
        yield lambda: None
        return
    console.say(description)
    if phase == "evaluation":
        with console.status(description):
            yield lambda: None
        return
    began, log = time.monotonic(), job.run / "log.csv"
    with console.progress_bar(description) as bar:

        def update() -> None:
            spent = min(time.monotonic() - began, 60 * plan.budget)
            found = _last_validation(log)
            words = console.shortened(description, console.room_for_words() - len(found))
            bar(spent, 60 * plan.budget, words + found)

        yield update


def _last_validation(log: Path) -> str:
    """The last line of a run's log in words; empty where there is none yet."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    if len(lines) < 2:
        return ""
    last = dict(zip(lines[0].split(","), lines[-1].split(","), strict=False))
    return f"  epoch {last['epoch']}, NDCG@10 {float(last['ndcg10']):.4f}"
