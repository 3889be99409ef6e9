"""`longrec tune`: search the settings of one or more models by real trainings, within a budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from longrec.comparison.plan import setting_texts
from longrec.config.toml_file import read_config_file
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
from longrec.runs.carry_out import find_device
from longrec.runs.folder import choose_for
from longrec.training.recipe import chosen_lines
from longrec.tuning.plan import TRIALS, Plan, clear, names_of, read_plan
from longrec.tuning.results import Tuning
from longrec.tuning.search import Search
from longrec.tuning.study import optuna_package, quiet_optuna
from longrec.tuning.values import parse_search


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

    Each trial is a training as of `longrec.train`; the first one has the settings that a training
    of that name and so many minutes has, and what is gained is gained over them. Test targets are
    not looked at. The same call goes on with what was interrupted or killed, and may have another
    budget.

    Parameters
    ----------
    histories : Histories or path, or a list of them
        One or more logs. Of several, settings are judged by the mean of what they gain on each.
    model : str, sequence of str or None
        Names of the registry, whose defaults are tried first. Of several the model is searched,
        too, and what is gained is gained over the first one. If left out, the search begins with
        the model and the settings that the recipe "auto" chooses for the first log and a trial's
        minutes.
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
        A TOML file of settings to begin with, in place of those, and perhaps of the "model".
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
    begun = None if overwrite else begun
    if trial_minutes is None:
        trial_minutes = budget / TRIALS if begun is None else begun.trial_minutes
    most = budget if begun is None else math.inf  # a search that goes on may be given less
    if not 0 < trial_minutes <= most:
        raise UsageError(
            f"trial_minutes is {trial_minutes:g}; it must be above 0 and at most the budget, which "
            f"is {budget:g} minutes"
        )
    show = console.is_interactive() if progress is None else progress
    chosen: dict[str, Any] = {}
    if model is None:
        known = {**begin, **settings, "max_minutes": trial_minutes / len(logs)}
        found = choose_for(logs[0], None, known)
        model, chosen = found.model, found.settings
        if show:
            for line in chosen_lines(found.about()):
                console.say(line)
    plan = Plan(
        histories=tuple(str(one.path.resolve()) for one in logs),
        fingerprints=tuple(one.fingerprint for one in logs),
        names=names_of([one.path for one in logs]),
        models=check_names("model", model.split(",") if isinstance(model, str) else model),
        search=_search(search),
        chosen=setting_texts(chosen),
        given=setting_texts(begin),
        fixed=setting_texts(settings),
        budget=float(budget),
        trial_minutes=float(trial_minutes),
        trials=trials,
        device=device,
    )
    spaces = plan.spaces([one.times is not None for one in logs])
    with locked(folder, "search"), quiet_optuna():
        begun = read_plan(folder)
        if overwrite:
            clear(folder)
        elif begun is not None:
            plan.check_continues(begun, folder)
        plan.write(folder)
        return Search(plan, spaces, dict(zip(plan.names, logs, strict=True)), folder, show).run()


def _search(search: Mapping[str, str] | Sequence[str] | None) -> dict[str, str]:
    if search is None:
        return {}
    if isinstance(search, Mapping):
        search = [f"{key}={text}" if text else str(key) for key, text in search.items()]
    return parse_search(check_names("search", search))
