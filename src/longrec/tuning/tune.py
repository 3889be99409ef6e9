"""`longrec tune`: search the settings of one or more models by real trainings, within a budget."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from longrec.artifact.provenance import provenance
from longrec.artifact.targets import targets_to_rank
from longrec.comparison.plan import setting_texts
from longrec.comparison.report import provenance_facts
from longrec.config.toml_file import read_config_file
from longrec.config.training import ClockName
from longrec.core import console
from longrec.core.arguments import (
    check_count,
    check_flag,
    check_names,
    check_path,
    check_shown,
    described,
)
from longrec.core.errors import UsageError
from longrec.core.lock import locked
from longrec.data.histories import Histories, as_histories
from longrec.evaluation.rank_targets import rank_targets
from longrec.evaluation.summary import Ranks, as_served, compare_ranks
from longrec.recommender import Recommender, load
from longrec.runs.carry_out import find_device
from longrec.runs.folder import DEFAULT_MODEL
from longrec.training.progress import Progress
from longrec.training.validation import draw_targets
from longrec.tuning.page import write_results
from longrec.tuning.plan import FEWEST, RUNS, TRIALS, Plan, clear, names_of, read_plan
from longrec.tuning.results import ENDS, Gain, Tuning, runs_of
from longrec.tuning.space import Space
from longrec.tuning.study import Begun, Study, Trial, optuna_package, quiet_optuna
from longrec.tuning.trial import Trying, mean_gain
from longrec.tuning.values import parse_search, shown

NOTHING_NEW = 50
"""Trials in a row that were tried before, or refused, after which a search ends."""


def tune(
    histories: Histories | str | Path | Sequence[Histories | str | Path],
    model: str | Sequence[str] | None = None,
    *,
    budget: float,
    out: str | Path,
    search: Mapping[str, str] | Sequence[str] | None = None,
    config: str | Path | None = None,
    trial_minutes: float | None = None,
    trials: int | None = None,
    device: str = "auto",
    overwrite: bool = False,
    progress: bool | None = None,
    **settings: Any,
) -> Tuning:
    """Search the settings that serve the validation targets best, within a budget of time.

    Each trial is a training as of `longrec.train`; the first one has the defaults, and what is
    gained is gained over them. Test targets are not looked at. The same call goes on with what was
    interrupted or killed, and may have another budget.

    Parameters
    ----------
    histories : Histories or path, or a list of them
        One or more logs. Of several, settings are judged by the mean of what they gain on each.
    model : str, sequence of str or None
        Names of the registry, "elastic" if left out. Of several the model is searched, too, and the
        defaults of the first one are what counts as gained over.
    budget : float
        Minutes of the whole search, by the setting `clock`.
    out : path
        The search's folder.
    search : mapping, sequence of str or None
        What is searched, and nothing else: {"dropout": "0..0.5", "loss": "full,sampled"}, or
        ["dropout=0..0.5", "experts"]; a key alone has the values that are declared or that its type
        says. None: what the models declare (width, layers, dropout) and learning rate, batches,
        weight decay and the average of weights.
    config : path or None
        A TOML file of settings to begin with, in place of the defaults, and perhaps of the "model".
    trial_minutes : float or None
        Most minutes of a trial, on all logs together; an eighth of the budget if left out.
    trials : int or None
        Most trials.
    device : str
        As in `train`.
    overwrite : bool
        Whether a search that stands in `out` is removed first, with its runs, instead of gone on
        with.
    progress : bool or None
        Whether to show on standard error how far it is; None does so in a terminal or a notebook.
    **settings
        That no trial changes, as of `train`.

    Returns
    -------
    Tuning

    Raises
    ------
    UsageError
        For an unknown model, key or value, or a missing extra, before anything is trained; for a
        folder that holds something else or another search.
    DataError
        When histories are damaged or have changed, or have no validation targets.
    """
    given = list(histories) if isinstance(histories, list | tuple) else [histories]
    logs = [as_histories("histories", one) for one in given]
    if not logs:
        raise UsageError("histories is an empty list; give one log or more")
    folder = check_path("out", out)
    for name, value in (("budget", budget), ("trial_minutes", trial_minutes)):
        if not isinstance(value, int | float) and (name == "budget" or value is not None):
            raise UsageError(f"{name} is {described(value)}; give minutes")
    if not 0 < budget < math.inf:
        raise UsageError(f"budget is {budget}; it must be above 0 minutes")
    trials = None if trials is None else check_count("trials", trials)
    check_flag("overwrite", overwrite)
    check_shown(progress)
    find_device(device)
    optuna_package()
    begin: dict[str, Any] = {}
    if config is not None:
        of_file = read_config_file(check_path("config", config, "the path of a TOML file"))
        model, begin = model or of_file.model, of_file.settings
    begun = read_plan(folder)  # refuses a folder with other things before anything is written
    if trial_minutes is None:
        going_on = begun is not None and not overwrite
        trial_minutes = begun.trial_minutes if going_on and begun else budget / TRIALS
    plan = Plan(
        histories=tuple(str(one.path.resolve()) for one in logs),
        fingerprints=tuple(one.fingerprint for one in logs),
        names=names_of([one.path for one in logs]),
        models=check_names("model", _models(model)),
        search=_search(search),
        given=setting_texts(begin),
        fixed=setting_texts(settings),
        budget=float(budget),
        trial_minutes=float(trial_minutes),
        trials=trials,
        device=device,
    )
    spaces = plan.spaces()
    show = console.is_interactive() if progress is None else progress
    with locked(folder, "search"), quiet_optuna():
        begun = read_plan(folder)
        if overwrite:
            clear(folder)
        elif begun is not None:
            plan.check_continues(begun, folder)
        plan.write(folder)
        return _Search(plan, spaces, dict(zip(plan.names, logs, strict=True)), folder, show).run()


def _models(model: str | Sequence[str] | None) -> Any:
    if model is None:
        return DEFAULT_MODEL
    return model.split(",") if isinstance(model, str) else model


def _search(search: Mapping[str, str] | Sequence[str] | None) -> dict[str, str]:
    if search is None:
        return {}
    if isinstance(search, Mapping):
        search = [f"{key}={text}" if text else str(key) for key, text in search.items()]
    return parse_search(check_names("search", search))


class _Search:
    """A search that goes on in its folder, which is locked."""

    def __init__(
        self,
        plan: Plan,
        spaces: Mapping[str, Space],
        logs: Mapping[str, Histories],
        folder: Path,
        show: bool,
    ) -> None:
        self.plan, self.spaces, self.logs, self.folder = plan, spaces, logs, folder
        self.show, self.number = show, 0
        first = spaces[plan.models[0]].begin
        self.seed = int(first["seed"] or 0)
        clock: ClockName = "processor" if first["clock"] == "processor" else "wall"
        self.study = Study(folder, spaces, self.seed)
        self.trying = Trying(logs, folder / RUNS, plan.trial_minutes, plan.device, clock, self.look)
        self.bar: Any = None

    def run(self) -> Tuning:
        """Try until the budget is spent, or there is nothing more to try."""
        self.study.take_up()
        nothing_new = 0
        with self.progress():
            while True:
                self.tidy()
                reference = self.study.reference()
                left = self.plan.budget - self.minutes()
                stop = self.why_stop(left, nothing_new) if reference is not None else None
                if stop is not None:
                    break
                begun = self.study.ask()
                trial = self.tried(begun, left, reference)
                nothing_new = 0 if trial.counts else nothing_new + 1
                self.say(trial)
        tuning = self.found(stop)
        first = next(iter(self.logs.values()))
        write_results(tuning, provenance_facts(provenance(first, self.seed)))
        return tuning

    def why_stop(self, left: float, nothing_new: int) -> str | None:
        """Why no further trial is begun; None: one is."""
        counted = sum(trial.counts for trial in self.study.trials())
        if self.plan.trials is not None and counted >= self.plan.trials:
            return "trials"
        if left < FEWEST * self.plan.trial_minutes:
            return "budget"
        return "tried" if nothing_new >= NOTHING_NEW else None

    def tried(self, begun: Begun, left: float, reference: Trial | None) -> Trial:
        """Let a trial run to its end, and keep that."""
        from longrec.models.common.settings import parse_settings

        study = self.study
        if begun.about.get("given_up") and not study.is_reference(begun):
            return study.end(begun, "failed", error="its process ended twice at the same place")
        if study.same(begun):
            return study.end(begun, "same")
        try:
            parse_settings(begun.model, begun.settings)
        except UsageError as error:
            return study.end(begun, "refused", error=str(error))
        self.number = begun.trial.number
        own = begun.about.get("seconds", 0.0) / 60
        minutes = min(self.plan.trial_minutes, left + own)
        measured = None if reference is None else reference.ndcg10
        try:
            outcome = self.trying.run(begun, minutes, measured)
        except KeyboardInterrupt:
            begun.keep(stopped=True)
            raise
        gain = None
        if outcome.end == "ended":
            gain = 0.0 if measured is None else mean_gain(outcome.ndcg10, measured)
        return study.end(begun, outcome.end, gain, outcome.error)

    def minutes(self) -> float:
        """What all trials took; an interrupted one's minutes are those of who went on with it."""
        trials = self.study.trials()
        return sum(trial.seconds for trial in trials if trial.end != "interrupted") / 60

    def tidy(self) -> None:
        """Remove the runs of all trials but the defaults', the best and those that go on."""
        kept = self.study.waiting_runs()
        kept |= {one.run for one in (self.study.reference(), self.study.best()) if one is not None}
        kept |= {trial.run for trial in self.study.trials() if trial.end == ""}
        runs = self.folder / RUNS
        for path in runs.iterdir() if runs.is_dir() else ():
            if path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)

    def found(self, stop: str) -> Tuning:
        """What the trials say, the best one held against the defaults target by target."""
        reference, best = self.study.reference(), self.study.best()
        assert reference is not None
        assert best is not None
        gains = {}
        runs = [runs_of(self.folder, self.plan, trial) for trial in (reference, best)]
        for log, data in self.logs.items():
            pair = reference.ndcg10[log], best.ndcg10[log]
            ranks = [_validation_ranks(load(own[log]), data) for own in runs]
            low, high = math.nan, math.nan
            if reference.number != best.number:
                difference = compare_ranks(ranks[1], ranks[0])
                low, high = difference.low, difference.high
            gains[log] = Gain(*pair, low, high, len(ranks[0]))
        trials = [t for t in self.study.trials() if t.end not in ("same", "interrupted")]
        return Tuning(
            *(self.folder, self.plan, self.spaces, trials, best, reference, gains),
            stop=stop,
            minutes=self.minutes(),
        )

    # ---- what is shown

    @contextmanager
    def progress(self) -> Iterator[None]:
        """A bar of the budget, where it is to be shown."""
        if not self.show:
            yield
            return
        with console.progress_bar("search") as self.bar:
            self.bar(60 * self.minutes(), 60 * self.plan.budget, "trial 0")
            yield
        self.bar = None

    def look(self, log: str, progress: Progress, seconds: float) -> None:
        """Show how far a trial is."""
        if self.bar is None:
            return
        ended = [t for t in self.study.trials() if t.end not in ("", "interrupted")]
        spent = sum(trial.seconds for trial in ended) + seconds
        best = self.study.best()
        words = [f"trial {self.number}", f"epoch {progress.epoch}"]
        if len(self.logs) > 1:
            words.insert(1, log)
        if progress.ndcg10 is not None:
            words.append(f"NDCG@10 {progress.ndcg10:.4f}")
        if best is not None:
            words.append(f"best {best.gain:+.1%}")
        text = console.shortened("  ".join(words), console.room_for_words())
        self.bar(spent, max(60 * self.plan.budget, spent), text)

    def say(self, trial: Trial) -> None:
        """A line for a trial that has ended."""
        if not self.show or trial.end == "same":
            return
        own = shown(self.spaces[trial.model].changed(trial.settings))
        reached = "  ".join(
            f"{log} {value:.4f}" if len(self.logs) > 1 else f"NDCG@10 {value:.4f}"
            for log, value in trial.ndcg10.items()
        )
        gain = "" if trial.gain is None else f"{trial.gain:+.1%}"
        name = f"trial {trial.number}" + (f"  {trial.model}" if len(self.spaces) > 1 else "")
        what = "the defaults" if trial.begins else own
        console.say("  ".join(filter(None, [name, reached, gain, ENDS[trial.end], what])))
        if trial.error and trial.end == "failed":
            console.say(f"warning: trial {trial.number} failed: {trial.error}")


def _validation_ranks(recommender: Recommender, data: Histories) -> Ranks:
    """Ranks of the targets by which a training validates, as the recommender serves them."""
    config = recommender.train_config
    asked = targets_to_rank(
        *(recommender, data, "validation"),
        narrowed=lambda targets: draw_targets(targets, config.validation_users, config.seed),
    )
    ranks = rank_targets(
        *(recommender.scorer, asked.histories, asked.targets, config.context),
        popular=recommender.catalog.popular,
    )
    return as_served(ranks, recommender.exclude_seen)
