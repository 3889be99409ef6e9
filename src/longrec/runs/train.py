"""Train: what `longrec.train` does, for every caller."""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from longrec.core import console
from longrec.core.errors import UsageError
from longrec.core.generators import generators_kept, seed_generators
from longrec.data.catalog import Catalog
from longrec.data.event_columns import check_columns
from longrec.data.histories import Histories, open_histories
from longrec.data.splits import Split, make_split, training_events
from longrec.inference.encode import check_times
from longrec.models import build_model
from longrec.models.common.settings import check_model, parse_settings
from longrec.recommender import Recommender, load
from longrec.runs.folder import Plan, check_resumable, end_run, locked_run, make_plan, read_plan
from longrec.runs.progress_display import TrainingProgress
from longrec.runs.warm_start import (
    OldHistories,
    describe_start,
    inherit_weights,
    measure_gain,
    reopen,
    start_messages,
)
from longrec.training.fit import fit
from longrec.training.progress import Progress


def train(
    histories: Histories | str | Path,
    model: str | None = None,
    out: str | Path | None = None,
    *,
    warm_start: Recommender | str | Path | None = None,
    resume: bool = False,
    device: str = "auto",
    progress: Progress | bool | None = None,
    **settings: Any,
) -> Recommender:
    """Train a model on histories.

    Parameters
    ----------
    histories : Histories or path
        What `longrec.prepare` gave.
    model : str or None
        A name of the registry (`longrec models` lists them); "elastic" if left out.
    out : path or None
        The run's folder: checkpoints and log while training, the recommender afterwards. None
        keeps the recommender in memory only.
    warm_start : Recommender, path or None
        A trained recommender whose weights to start from. The model and its settings are its own,
        and so are the settings of training that are not given. Items are known again by their ids
        and new ones added; the provenance tells, under "warm_start", what was known and new, and
        under its "gain" what the old and the new model score on the test targets that are newer
        than the old model's data.
    resume : bool
        Go on with the run in `out` that was interrupted. Model, warm start and settings may be
        left out then; those that are given must be the run's own.
    device : str
        "auto" (a GPU if torch sees one), "cpu", "cuda", "cuda:1", …
    progress : callable, bool or None
        Called after every step; True shows a bar, None shows it in a terminal or a notebook.
    **settings
        Keys of the model's config and of `longrec.config.training.TrainConfig`.

    Returns
    -------
    Recommender
        With the weights that validated best; saved to `out` if that was given.

    Raises
    ------
    UsageError
        For an unknown model, key or value, or an `out` that may not be written to.
    DataError
        When histories or the recommender of a warm start are damaged, changed or do not fit.
    LongrecError
        When training cannot go on: nothing to train on, a loss that is not finite.
    """
    data = histories if isinstance(histories, Histories) else open_histories(histories)
    if model is not None:
        check_model(model)
    old = load(warm_start) if isinstance(warm_start, str | Path) else warm_start
    if out is None:
        if resume:
            raise UsageError("resume needs the run's folder: pass out=")
        with tempfile.TemporaryDirectory(prefix="longrec-") as temporary:
            run = Path(temporary)
            plan = make_plan(data, run, model, settings, old)
            return _train(data, plan, old, run, False, device, progress)
    folder = Path(out)
    with locked_run(folder, resume):
        begun = read_plan(folder) if resume else None
        if begun is None:
            plan = make_plan(data, folder, model, settings, old)
        else:
            plan = begun
            check_resumable(plan, data, folder, model, settings, old)
            if old is None and "warm_start" in plan.provenance:
                old = reopen(plan.provenance["warm_start"])
        recommender = _train(data, plan, old, folder, resume, device, progress)
        recommender.save(folder)
        end_run(folder)
    return recommender


def _train(
    data: Histories,
    plan: Plan,
    old: Recommender | None,
    run: Path,
    resume: bool,
    device: str,
    progress: Progress | bool | None,
) -> Recommender:
    """Train what the plan says, in the run's folder."""
    model_config, config = parse_settings(plan.model, plan.settings)
    split = make_split(config.split, data)
    with generators_kept():
        seed_generators(config.seed)
        model = build_model(plan.model, model_config, data.n_items).to(_device(device))
    check_times(model, data.times)
    check_columns(plan.model, model.reads_columns, data.columns, data.path)
    columns = {name: data.columns[name] for name in model.reads_columns}
    if old is not None:  # words that the old model knows keep their codes
        check_columns(plan.model, columns, data.columns, data.path, old.columns)
        columns = {name: old.columns[name].extended(column) for name, column in columns.items()}
    data = data.in_words_of(columns)
    about, old_data = dict(plan.provenance), None
    progress = console.is_interactive() if progress is None else progress
    if old is not None:
        old_data = OldHistories.of(old, data)
        about["warm_start"] = about["warm_start"] | describe_start(old, data, split, old_data)
        inherit_weights(model, data.catalog, old)
        if progress is True:
            for line in start_messages(about["warm_start"], old, data):
                console.say(line)
    with (
        TrainingProgress(plan.model, config.max_epochs, config.max_minutes)
        if progress is True
        else nullcontext(progress or None)
    ) as report:
        result = fit(model, data, split, config, run, resume, report, old is not None)
    data.check()
    training = asdict(result)
    del training["rows"]
    policy = training.pop("policy")
    about |= {"training": training, "policy": policy, "split": dict(split.notes)}
    recommender = Recommender(
        *(plan.model, model, model_config, config, _counted(data, split), about),
        columns=columns,
        exclude_seen=policy["exclude_seen"],
    )
    if old is not None:
        bar = console.progress_bar("the new period") if progress is True else nullcontext()
        with bar as report_ranked:
            gain = measure_gain(old, recommender, data, split, old_data, report_ranked)
        about["warm_start"]["gain"] = gain
    return recommender


def _counted(data: Histories, split: Split) -> Catalog:
    """The catalog with the counts of training events: what is popular knows no target."""
    trains = training_events(data.offsets, split.train_end)
    counts = np.bincount(data.items[trains], minlength=data.n_items + 1)
    return Catalog(data.catalog.ids, counts[1:])


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from None
    return device
