"""Every model on every log: what is run, some at a time, and what is kept of each.

A model is run by `longrec compare` in a folder of its own, so that budgets, seeds, resuming and
memory are those of a comparison: what has ended is kept, what was killed goes on from its
checkpoint or begins again.

WORK/histories/LOG               histories
WORK/LOG-MINUTES/NAME/           a comparison of one model: its runs with weights and ranks
WORK/LOG-MINUTES/NAME.txt        what its process prints
OUT/LOG/NAME-RECIPE-SEED.json    a cell: what a table may quote, and nothing of the log's rows
OUT/LOG/log.json                 the log, and what is attainable on it
OUT/LOG/pairs-RECIPE.json        paired tests
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event

from longrec.comparison.plan import Plan, folder_name, read_plan
from longrec.comparison.process import run_process
from longrec.comparison.read_runs import read_json
from longrec.comparison.results import Comparison, collect, is_evaluated
from longrec.core.choices import Recipe
from longrec.core.errors import UsageError
from longrec.models import MODELS, CountingModel, SequenceModel, build_model
from longrec.models.common.settings import check_model, parse_assignments
from longrec_bench.zoo.logs import Log

ALWAYS = ("clock=processor", "transitions=0")
"""Minutes are of one core's time, so that a busy machine gives all models the same; and models are
compared by themselves, without what counting would add to each."""
_FIXED = parse_assignments(list(ALWAYS))
Done = Callable[["Job", str | None], None]
"""Called with a job that has ended, and what went wrong or None."""


@dataclass(frozen=True)
class ZooPlan:
    """What a table is made of; the same for all models.

    Attributes
    ----------
    models : names of the registry.
    recipe : "own", our defaults, "auto", or "paper", of the models that have settings of a paper.
    minutes : most of training, validation included; it stops earlier by its patience.
    seeds : trainings of each model, with the seeds 0, 1, …; one of those that count.
    jobs : processes at once, of one thread each.
    settings : common to all models, "KEY=VALUE".
    """

    models: Sequence[str]
    recipe: Recipe = "own"
    minutes: float = 4.0
    seeds: int = 1
    jobs: int = 2
    settings: Sequence[str] = field(default=())

    def __post_init__(self) -> None:
        for place, name in enumerate(self.models):
            check_model(name)
            if name in self.models[:place]:
                raise UsageError(f"the model {name!r} is named twice")
        if not 0 < self.minutes < float("inf"):
            raise UsageError(f"minutes is {self.minutes}; it must be above 0")
        if not self.names():
            raise UsageError(f"no model has a recipe {self.recipe!r} among those named")
        for key in _FIXED.keys() & self.common.keys():
            raise UsageError(f"{key} is {_FIXED[key]} in every zoo: leave it out")

    @property
    def common(self) -> dict[str, str]:
        """The settings common to all models."""
        return parse_assignments(list(self.settings))

    def names(self) -> list[str]:
        """The models that have the recipe."""
        return [n for n in self.models if self.recipe != "paper" or MODELS[n].paper_settings]

    def jobs_on(self, log: Log, work: Path) -> list[Job]:
        """All models on a log."""
        place = work / f"{log.name}-{self.minutes:g}"
        jobs = [Job(self, log, name, place) for name in self.names()]
        return [replace(job, folder=place / folder_name(job.text)) for job in jobs]


@dataclass(frozen=True, eq=False)
class Job:
    """A model on a log: all its seeds, one after the other, in one folder."""

    plan: ZooPlan
    log: Log
    model: str
    folder: Path

    @property
    def needed(self) -> list[str]:
        """Settings without which the model cannot be trained on this log, "KEY=VALUE".

        What ranks by pairs has no loss over the whole catalog, and takes its paper's; what reads
        times goes without them where the log has none. What is set for all models stays.
        """
        cls = MODELS[self.model]
        model, found = build_model(self.model, cls.config_class(), 1), list[str]()
        if isinstance(model, SequenceModel) and model.target_aware:
            paper = cls.paper_settings
            found += [f"{key}={paper[key]}" for key in ("loss", "negatives") if key in paper]
        if self.log.histories.times is None and model.reads_times and cls.without_times:
            found.append(cls.without_times)
        return [text for text in found if text.partition("=")[0] not in self.plan.common]

    @property
    def text(self) -> str:
        """The model as a comparison names it."""
        recipe = [] if self.plan.recipe == "own" else [f"recipe={self.plan.recipe}"]
        return ":".join([self.model, *recipe, *self.needed])

    @property
    def seeds(self) -> int:
        """Trainings: one of a model that counts, for which every seed gives the same."""
        return 1 if issubclass(MODELS[self.model], CountingModel) else self.plan.seeds

    def arguments(self) -> list[str]:
        """What follows `longrec` on the command line."""
        plan, plugin = self.plan, MODELS.plugin(self.model)
        found = ["--threads", "1", "compare", str(self.log.histories.path.resolve())]
        found += ["--models", self.text, "--budget", f"{plan.minutes:g}"]
        found += ["--out", str(self.folder), "--no-baselines", "--device", "cpu"]
        found += ["--seeds", str(self.seeds)]
        found += [] if plugin is None else ["--plugin", plugin]
        return found + [word for text in (*ALWAYS, *plan.settings) for word in ("--set", text)]

    def check(self) -> None:
        """Raise UsageError for settings that the model cannot be trained with, before any run."""
        plan, data = self.plan, self.log.histories
        settings = _FIXED | plan.common
        about = (str(data.path), data.fingerprint, (self.text,), plan.minutes, settings, self.seeds)
        Plan(*about, device="cpu", threads=1).entry(self.text)

    def ended(self) -> Comparison | None:
        """What it found, where all its seeds have ended."""
        if not self.folder.is_dir():
            return None
        begun = read_plan(self.folder)
        if begun is None or begun.fingerprint != self.log.histories.fingerprint:
            return None
        jobs = begun.jobs(self.folder)
        whole = len(jobs) >= self.seeds and all(is_evaluated(job, begun) for job in jobs)
        return collect(self.folder) if whole else None

    def command(self, seed: int) -> str:
        """The training as one would repeat it, without this machine's folders."""
        recipe = [] if self.plan.recipe == "own" else ["--recipe", self.plan.recipe]
        settings = [*self.plan.settings, *self.needed]
        settings += [*ALWAYS, f"max_minutes={self.plan.minutes:g}", f"seed={seed}"]
        chosen = [word for text in settings for word in ("--set", text)]
        words = ["longrec", "--threads", "1", "train", self.log.name, "--model", self.model]
        return shlex.join([*words, *recipe, *chosen])


def run_jobs(jobs: Sequence[Job], at_once: int, done: Done) -> None:
    """Run some at a time, each in a process with one thread; Ctrl-C ends all of them."""
    stop = Event()

    def tick() -> None:
        if stop.is_set():
            raise KeyboardInterrupt

    def one(job: Job) -> str | None:
        tick()
        job.folder.parent.mkdir(parents=True, exist_ok=True)
        log = job.folder.with_name(f"{job.folder.name}.txt")
        error = run_process(job.arguments(), log, log.with_suffix(".json"), tick)
        return error if error is None else _reason(job, error)

    with ThreadPoolExecutor(at_once) as pool:
        futures: Mapping[Future[str | None], Job] = {pool.submit(one, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                done(futures[future], future.result())
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _reason(job: Job, error: str) -> str:
    """Why a run failed, by the comparison, which says it without its own folder."""
    path = job.folder / "results.json"
    failures = read_json(path)["failures"] if path.is_file() else []
    text = "; ".join(failure["error"] for failure in failures) or error
    for folder in _outside(job):
        text = text.replace(str(folder), folder.name)
    return text


def _outside(job: Job) -> Iterator[Path]:
    """Folders whose paths are of this machine alone."""
    for folder in (job.folder, job.log.histories.path):
        yield folder.resolve()
        yield folder
