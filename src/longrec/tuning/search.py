"""A search that goes on: trial after trial, until its budget is spent."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from longrec.artifact.provenance import provenance
from longrec.artifact.targets import targets_to_rank
from longrec.comparison.report import provenance_facts
from longrec.config.training import ClockName
from longrec.core import console
from longrec.core.errors import DataError, LongrecError, UsageError
from longrec.core.files import disk_full
from longrec.data.histories import Histories
from longrec.evaluation.rank_targets import rank_targets
from longrec.evaluation.summary import Ranks, as_served, compare_ranks
from longrec.models.common.settings import parse_settings
from longrec.recommender import Recommender, load
from longrec.runs.folder import has_ended
from longrec.training.progress import Progress
from longrec.training.validation import draw_targets
from longrec.tuning.page import write_results
from longrec.tuning.plan import FEWEST, RUNS, STORE, Plan, clear
from longrec.tuning.results import ENDS, Gain, Tuning, runs_of
from longrec.tuning.space import Space
from longrec.tuning.study import Begun, Study, Trial
from longrec.tuning.trial import Trying, mean_gain
from longrec.tuning.values import shown

NOTHING_NEW = 20
"""Trials in a row that were tried before, or refused, after which a search ends."""


class Search:
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
        self.check_begun()
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

    def check_begun(self) -> None:
        """Raise DataError where what an earlier process left is not whole, before time is spent."""
        mend = "begin anew (--overwrite, overwrite=True)"
        for trial in self.study.trials():
            known = trial.model in self.spaces and {*trial.ndcg10} == {*self.logs}
            if trial.gain is not None and not (trial.end == "ended" and known):
                raise DataError(
                    f"{self.folder / STORE} is damaged: trial {trial.number} has ended, and does "
                    f"not tell what it reached on each log: {mend}."
                )
        for one in filter(None, (self.study.reference(), self.study.best())):
            for run in runs_of(self.folder, self.plan, one).values():
                if not has_ended(run):
                    raise DataError(
                        f"{run} is gone, which trial {one.number} made: put it back, or {mend}."
                    )

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
        except LongrecError as error:
            if reference is None and disk_full(error) is None:
                clear(self.folder)  # nothing can be searched so: the call may be mended and given
            raise
        gain = None
        if outcome.end == "ended":
            gain = 0.0 if measured is None else mean_gain(outcome.ndcg10, measured)
        return study.end(begun, outcome.end, gain, outcome.error)

    def minutes(self) -> float:
        """What all trials took so far."""
        return self.study.seconds() / 60

    def tidy(self) -> None:
        """Remove the runs of all trials but the first one's, the best and those that go on."""
        kept = self.study.waiting_runs()
        kept |= {one.run for one in (self.study.reference(), self.study.best()) if one is not None}
        kept |= {trial.run for trial in self.study.trials() if trial.end == ""}
        runs = self.folder / RUNS
        for path in runs.iterdir() if runs.is_dir() else ():
            if path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)

    def found(self, stop: str) -> Tuning:
        """What the trials say, the best one held against the first one target by target."""
        reference, best = self.study.reference(), self.study.best()
        assert reference is not None
        assert best is not None
        gains = {}
        runs = [runs_of(self.folder, self.plan, trial) for trial in (reference, best)]
        for log, data in self.logs.items():
            pair = reference.ndcg10[log], best.ndcg10[log]
            ranks = [validation_ranks(load(own[log]), data) for own in runs]
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

    def look(self, log: str, progress: Progress) -> None:
        """Show how far a trial is."""
        if self.bar is None:
            return
        spent = self.study.seconds()
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
        what = "the first settings" if trial.begins else own
        console.say("  ".join(filter(None, [name, reached, gain, ENDS[trial.end], what])))
        if trial.error and trial.end == "failed":
            console.say(f"warning: trial {trial.number} failed: {trial.error}")


def validation_ranks(recommender: Recommender, data: Histories) -> Ranks:
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
