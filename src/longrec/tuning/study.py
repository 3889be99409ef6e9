"""The trials of a search as Optuna keeps them: in an SQLite file, so that a kill loses none.

A trial says of itself, under its attributes, what longrec needs to know; `Trial` is what others
read. Optuna is an extra, `longrec[tune]`, and is imported here alone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from longrec.core.errors import DataError, UsageError, first_line
from longrec.tuning.plan import STORE, TUNING
from longrec.tuning.space import Space
from longrec.tuning.values import Value

if TYPE_CHECKING:
    import optuna

RESOURCE = 64
"""Steps of a trial, by the share of its minutes."""
FIRST_RUNG, KEPT = RESOURCE // 8, 2
"""After an eighth of its minutes, a quarter and a half a trial goes on if it is among the better
half (1 of KEPT) of those that came so far."""
RANDOM = 6
"""Trials drawn at random before the others teach what to try."""
SEEDS = 1 << 32
"""As many Optuna's sampler tells apart."""
End = Literal["ended", "pruned", "refused", "failed", "same", "interrupted", ""]
"""How a trial ended; "": it has not."""


@dataclass(frozen=True)
class Trial:
    """One trial, as it is kept.

    Attributes
    ----------
    number : in the order of their beginning.
    model, settings : what was trained.
    begins : whether these are the settings to begin with, of this model.
    end : how it ended: "ended", or "pruned": it was behind others; "refused": the settings do not
        go together; "failed"; "same": as an earlier one; "interrupted": a later one goes on with
        it.
    gain : mean over the logs of NDCG@10 over that of the first settings, less 1; None unless it
        ended.
    ndcg10 : by log, as reached last; of one that ended with transitions, as `longrec train` has it.
    curves : by log, (share of its training, NDCG@10 without transitions) of each validation.
    seconds : that it took, all told.
    run : the name of its folder.
    error : what went wrong.
    """

    number: int
    model: str
    settings: Mapping[str, Value]
    begins: bool
    end: End
    gain: float | None
    ndcg10: Mapping[str, float]
    curves: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    seconds: float = 0.0
    run: str = ""
    error: str = ""

    @property
    def counts(self) -> bool:
        """Whether something was trained, so that it counts as one of so many trials."""
        return self.end in ("ended", "pruned", "failed")


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Within this Optuna tells nothing but errors: what there is to tell, longrec does."""
    logging = optuna_package().logging
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def optuna_package() -> Any:
    """Optuna.

    Raises
    ------
    UsageError
        When it is not installed.
    """
    try:
        return import_module("optuna")
    except ImportError as error:
        raise UsageError(
            "a search for settings needs the package optuna: pip install 'longrec[tune]'"
        ) from error


@dataclass(frozen=True)
class Begun:
    """A trial that goes on.

    Attributes
    ----------
    trial : Optuna's.
    model, settings : what to train.
    run : the name of its folder.
    about : what an earlier process kept of it before it ended.
    """

    trial: optuna.Trial
    model: str
    settings: dict[str, Value]
    run: str
    about: Mapping[str, Any]

    def keep(self, **attributes: Any) -> None:
        """Keep what others read of it, at once."""
        for key, value in attributes.items():
            self.trial.set_user_attr(key, value)

    def is_behind(self, share: float, gain: float) -> bool:
        """Whether it is to end, `share` of its minutes spent and so much gained by now."""
        step = int(RESOURCE * share)
        if step < FIRST_RUNG or step <= self.trial.user_attrs.get("step", 0):
            return False
        self.keep(step=step)
        self.trial.report(gain, step)
        return bool(self.trial.should_prune())


class Study:
    """All trials of a search, in its folder.

    Parameters
    ----------
    folder : path
    spaces : what is searched, by model; what the first one begins with is the reference.
    seed : of what is drawn.
    """

    def __init__(self, folder: Path, spaces: Mapping[str, Space], seed: int) -> None:
        self._optuna = optuna_package()
        self.folder, self.spaces = folder, spaces
        self.reference_model = next(iter(spaces))
        path = folder / STORE
        try:
            storage = self._optuna.storages.RDBStorage(
                "sqlite://", engine_kwargs={"creator": lambda: sqlite3.connect(path, timeout=60)}
            )
            self._study: optuna.Study = self._optuna.create_study(
                storage=storage,
                study_name="longrec",
                direction="maximize",
                load_if_exists=True,
                pruner=self._optuna.pruners.SuccessiveHalvingPruner(FIRST_RUNG, KEPT),
            )
            drawn = len(self._study.get_trials(deepcopy=False))
        except Exception as error:
            raise DataError(
                f"{path} cannot be used ({first_line(error)}): {TUNING.mend}."
            ) from error
        # From another seed after each pause: the same numbers drawn again would be the same trials.
        self._study.sampler = self._optuna.samplers.TPESampler(
            seed=(seed + drawn) % SEEDS, n_startup_trials=RANDOM
        )

    def trials(self) -> list[Trial]:
        """Every trial that was begun, in order."""
        waiting = self._optuna.trial.TrialState.WAITING
        kept = self._study.get_trials(deepcopy=False)
        return [self._read(one) for one in kept if one.state != waiting]

    def seconds(self) -> float:
        """What all trials took; an interrupted one's seconds are those of who goes on with it."""
        kept = self._study.get_trials(deepcopy=False)
        return sum(t.seconds for t in map(self._read, kept) if t.end != "interrupted")

    def reference(self) -> Trial | None:
        """The trial of the first settings, once it has ended."""
        found = (t for t in self.trials() if t.begins and t.model == self.reference_model)
        return next((trial for trial in found if trial.end == "ended"), None)

    def best(self) -> Trial | None:
        """The trial with the largest gain; the earliest of several."""
        ended = [trial for trial in self.trials() if trial.gain is not None]
        return max(ended, key=lambda t: (t.gain, -t.number), default=None)

    def waiting_runs(self) -> set[str]:
        """Folders of trials that are to go on."""
        waiting = self._optuna.trial.TrialState.WAITING
        kept = self._study.get_trials(deepcopy=False)
        return {one.user_attrs.get("run", "") for one in kept if one.state == waiting}

    def take_up(self) -> None:
        """Let trials wait to be gone on with that were going on when their process ended."""
        states = self._optuna.trial.TrialState
        for one in self._study.get_trials(deepcopy=False):
            if one.state != states.RUNNING:
                continue
            about, seconds = one.user_attrs, one.user_attrs.get("seconds", 0.0)
            again = about.get("taken_up_at") == seconds and not about.get("stopped")
            now = {"taken_up_at": seconds, "stopped": False, "given_up": again}
            self._study.enqueue_trial(one.params, user_attrs=about | now)
            self._study.tell(one.number, state=states.FAIL)

    def ask(self) -> Begun:
        """Begin a trial: one that waits, what each model begins with, or one that is drawn."""
        if not self.waiting_runs():
            self._enqueue_first()
        trial = self._study.ask()
        about = dict(trial.user_attrs)
        model = about.get("begins") or about.get("model")
        if model is None:
            names = list(self.spaces)
            model = trial.suggest_categorical("model", names) if names[1:] else names[0]
        elif len(self.spaces) > 1:
            trial.suggest_categorical("model", list(self.spaces))
        settings = self.spaces[model].draw(trial, "begins" in about)
        begun = Begun(trial, model, settings, about.get("run", str(trial.number)), about)
        begun.keep(model=model, settings=settings, run=begun.run)
        return begun

    def is_reference(self, begun: Begun) -> bool:
        """Whether it has the settings that all others are measured against."""
        return begun.about.get("begins") == self.reference_model

    def _enqueue_first(self) -> None:
        """Let what the next model begins with wait, if one has not been tried by it."""
        tried = {t.model for t in self.trials() if t.begins and t.end != "interrupted"}
        names = list(self.spaces)
        for model in names if self.reference() is not None else names[:1]:
            if model not in tried:
                chosen = {"model": model} if names[1:] else {}
                first = chosen | self.spaces[model].first()
                self._study.enqueue_trial(first, user_attrs={"begins": model})
                return

    def same(self, begun: Begun) -> bool:
        """Whether an earlier trial had the same settings, and came to an end."""
        return any(
            one.model == begun.model
            and dict(one.settings) == begun.settings
            and one.end in ("ended", "pruned", "failed", "refused")
            for one in self.trials()
        )

    def end(self, begun: Begun, end: End, gain: float | None = None, error: str = "") -> Trial:
        """Keep how a trial ended."""
        states = self._optuna.trial.TrialState
        # What was refused or failed is bad, which teaches what not to try; what was tried before
        # teaches nothing.
        state = {"ended": states.COMPLETE, "same": states.FAIL}.get(end, states.PRUNED)
        begun.keep(end=end, error=error)
        return self._read(self._study.tell(begun.trial, gain, state=state))

    def _read(self, kept: optuna.trial.FrozenTrial) -> Trial:
        about, states = kept.user_attrs, self._optuna.trial.TrialState
        end = about.get("end", "interrupted" if kept.state == states.FAIL else "")
        return Trial(
            kept.number,
            about.get("model") or about.get("begins", ""),
            about.get("settings", {}),
            "begins" in about,
            end,
            kept.value if kept.state == states.COMPLETE else None,
            about.get("ndcg10", {}),
            about.get("curves", {}),
            about.get("seconds", 0.0),
            about.get("run", ""),
            about.get("error", ""),
        )
