"""Train: what `longrec.train` does, for every caller."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from longrec.config.toml_file import read_config_file
from longrec.core.arguments import check_called, check_flag, check_path, check_shown
from longrec.core.choices import Recipe
from longrec.core.errors import UsageError
from longrec.data.histories import Histories, as_histories
from longrec.models.common.settings import check_model
from longrec.recommender import Recommender, load
from longrec.runs.carry_out import carry_out
from longrec.runs.final import plan_refit
from longrec.runs.folder import (
    LIMITS,
    MEASURED,
    Plan,
    check_apart,
    check_more,
    check_resumable,
    clear_run,
    end_run,
    has_ended,
    locked_run,
    make_plan,
    plan_of_ended,
    read_plan,
    was_begun,
    write_plan,
)
from longrec.runs.together import dismiss, follow, lead
from longrec.runs.warm_start import origin, reopen
from longrec.training.meeting import joined
from longrec.training.processes import Processes
from longrec.training.progress import OnEpoch


@joined()
def train(
    histories: Histories | str | Path,
    model: str | None = None,
    out: str | Path | None = None,
    *,
    warm_start: Recommender | str | Path | None = None,
    final: bool = False,
    recipe: Recipe | None = None,
    config: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    progress: bool | None = None,
    on_epoch: OnEpoch | None = None,
    **settings: Any,
) -> Recommender:
    """Train a model on histories.

    Started in several processes by torchrun, or where torch.distributed is set up, all of them
    train it together: each makes the same call, gets the same recommender, and finds histories and
    warm start at the same paths. Rank 0 alone writes to `out`, shows progress and calls `on_epoch`.

    Parameters
    ----------
    histories : Histories or path
        What `longrec.prepare` gave.
    model : str or None
        A name of the registry (`longrec models` lists them); chosen for the log if left out.
    out : path or None
        The run's folder: checkpoints and log while training, the recommender afterwards. None
        keeps the recommender in memory only.
    warm_start : Recommender, path or None
        A trained recommender whose weights to start from. The model and its settings are its own,
        and so are the settings of training that are not given. Items are known again by their ids
        and new ones added; the provenance tells, under "warm_start", what was known and new, and
        under its "gain" what the old and the new model score on the test targets that are newer
        than the old model's data.
    final : bool
        Train for service: first a run that is measured as ever, which stays in `out`/measured to be
        evaluated, and then, for as many epochs as that found best, one on all events, which is what
        `out` holds and what is returned (`longrec.refit` is the second half alone).
    recipe : {"own", "paper", "auto"} or None
        Which values settings have that are not given: our defaults; what the model's paper trained
        with where that is known (`longrec models NAME` shows both); or what suits the log and
        `max_minutes`, the model too unless it is given. What "auto" chose and why is printed where
        progress is shown, and in the provenance under "chosen". None: "own" where a model is named,
        so that its name means the same on every log, else "auto".
    config : path or None
        A TOML file of settings, and perhaps of the "model"; what is given beside it wins. The
        provenance has what the file held, under "config".
    resume : bool
        Go on with the run in `out` that was interrupted, or that has ended by `max_epochs` or
        `max_minutes` and is given more of them. Model, warm start, `final` and settings may be left
        out then; but for these two they must be the run's own.
    overwrite : bool
        Whether a run that stands in `out` may be replaced: its recommender stays until the new one
        has been trained.
    device : str
        "auto" (a GPU if torch sees one), "cpu", "cuda", "cuda:1", …
    progress : bool or None
        Whether to show a bar; None shows it in a terminal or a notebook.
    on_epoch : callable or None
        Called after every epoch with a `longrec.Progress`, such as a `longrec.TensorBoardLogger`.
        Where it returns True, training ends there with the best weights so far; what it raises
        ends the call, and leaves in `out` what `resume` goes on from.
    **settings
        Keys of the model's config and of `longrec.config.training.TrainConfig`.

    Returns
    -------
    Recommender
        With the weights that validated best, or if `final` the last ones; saved to `out` if that
        was given.

    Raises
    ------
    UsageError
        For an unknown model, key or value, or an `out` that may not be written to.
    DataError
        When histories or the recommender of a warm start are damaged, changed or do not fit.
    LongrecError
        When training cannot go on: nothing to train on, a loss that is not finite, another of its
        processes that has ended.
    """
    processes = Processes.here()
    data = as_histories("histories", histories)
    check_flag("final", final)
    check_flag("resume", resume)
    check_flag("overwrite", overwrite)
    check_shown(progress)
    check_called("on_epoch", on_epoch, "each epoch ends, with a longrec.Progress")
    of_file = None
    if config is not None:
        of_file = read_config_file(check_path("config", config, "the path of a TOML file"))
        model, settings = model or of_file.model, of_file.settings | settings
    if model is not None:
        check_model(model)
    old = warm_start if isinstance(warm_start, Recommender | None) else load(warm_start)
    started = None if old is None else origin(old)["digest"]
    call = {"model": model, "warm_start": started, "final": final, "recipe": recipe}
    processes.check_same(call | {"resume": resume, "overwrite": overwrite} | settings)
    if processes.rank:
        return follow(data, old, device)
    if out is None:
        for word, wanted in (("resume", resume), ("final", final), ("overwrite", overwrite)):
            if wanted:
                raise UsageError(f"{word} needs the run's folder: pass out=")
        with tempfile.TemporaryDirectory(prefix="longrec-") as temporary:
            run = Path(temporary)
            plan = make_plan(data, model, settings, old, recipe=recipe, config=of_file)
            lead(plan, False)
            found = carry_out(data, plan, old, run, False, device, progress, on_epoch)
    else:
        folder = check_path("out", out)

        def new() -> Plan:
            return make_plan(data, model, settings, old, final=final, recipe=recipe, config=of_file)

        def again(begun: Plan) -> Plan:
            return check_resumable(begun, data, folder, model, settings, old, final, recipe)

        with locked_run(folder, resume, overwrite):
            found = _train_in(folder, new, again, data, old, resume, device, progress, on_epoch)
    dismiss()
    return found


def _train_in(
    folder: Path,
    new: Callable[[], Plan],
    again: Callable[[Plan], Plan],
    data: Histories,
    old: Recommender | None,
    resume: bool,
    device: str,
    progress: bool | None,
    on_epoch: OnEpoch | None,
) -> Recommender:
    """Train in a folder that is locked, by a new plan or by one that was begun there."""
    begun = _plan_to_resume(folder) if resume else None
    if begun is None:
        plan = new()
        check_apart(folder, plan)
        clear_run(folder)
    else:
        plan = again(begun)
        if not was_begun(folder):
            check_more(plan, load(folder))
        if old is None and "warm_start" in plan.provenance:
            old = reopen(plan.provenance["warm_start"])
    write_plan(folder, plan)
    if plan.final:
        measured = _measured(data, plan, old, folder / MEASURED, device, progress, on_epoch)
        plan = plan_refit(measured, plan.provenance)
    lead(plan, resume)
    recommender = carry_out(data, plan, old, folder, resume, device, progress, on_epoch)
    recommender.save(folder)
    end_run(folder, recommender)
    return recommender


def _plan_to_resume(folder: Path) -> Plan | None:
    """The plan of what was begun in a folder, or has ended there; None where nothing is."""
    begun = read_plan(folder)
    return plan_of_ended(load(folder)) if begun is None and has_ended(folder) else begun


def _measured(
    data: Histories,
    plan: Plan,
    old: Recommender | None,
    folder: Path,
    device: str,
    progress: bool | None,
    on_epoch: OnEpoch | None,
) -> Recommender:
    """The run that finds how long the final one trains; made, or gone on with, where need be."""
    if has_ended(folder) and not was_begun(folder):
        measured = load(folder)
        if all(getattr(measured.train_config, key) == plan.settings[key] for key in LIMITS):
            return measured

    def new() -> Plan:
        return replace(plan, final=False)

    def again(begun: Plan) -> Plan:
        return check_resumable(begun, data, folder, plan.model, plan.settings, old)

    with locked_run(folder, resume=True, overwrite=False):
        return _train_in(folder, new, again, data, old, True, device, progress, on_epoch)
