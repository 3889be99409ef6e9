"""Train and evaluate: what `longrec.train` and `longrec.evaluate` do, for every caller."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl
import torch

from longrec.artifact.provenance import provenance
from longrec.config.parse import check_model, parse_settings
from longrec.config.training import TrainConfig
from longrec.core import console
from longrec.core.choices import Part, check_choice
from longrec.core.errors import DataError, LongrecError, UsageError
from longrec.core.files import write_file
from longrec.core.serialise import serialise
from longrec.data.aligned import align
from longrec.data.histories import Histories, open_histories
from longrec.data.splits import make_split
from longrec.evaluation.rank_targets import rank_targets
from longrec.evaluation.summary import Metrics, summarise_ranks
from longrec.inference.encode import check_times
from longrec.models import build_model
from longrec.recommender import Recommender, load
from longrec.runs.folder import Plan, check_resumable, claimed, end_run, make_plan, read_plan
from longrec.runs.progress_display import TrainingProgress
from longrec.runs.warm_start import (
    Before,
    describe_start,
    inherit,
    measure_gain,
    reopen,
    tell_start,
)
from longrec.training.fit import fit
from longrec.training.progress import FitResult, Progress


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
        Told after every step; True shows a bar, None shows it in a terminal or a notebook.
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
    with claimed(folder, resume):
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
    torch.manual_seed(config.seed)
    model = build_model(plan.model, model_config, data.n_items).to(_device(device))
    check_times(model, data.times)
    about, before = dict(plan.provenance), None
    told = console.is_interactive() if progress is None else progress
    if old is not None:
        before = Before.of(old, data)
        about["warm_start"] = about["warm_start"] | describe_start(old, data, split, before)
        inherit(model, data.catalog, old)
        for line in tell_start(about["warm_start"], old, data) if told is True else ():
            console.say(line)
    with _display(told, plan.model, config) as shown:
        result = fit(model, data, split, config, run, resume, shown, old is not None)
    data.check()
    about |= {"training": _ending(result), "split": dict(split.notes)}
    recommender = Recommender(plan.model, model, model_config, config, data.catalog, about)
    if old is not None:
        display = console.progress_bar("the new period") if told is True else nullcontext()
        with display as ranked:
            gain = measure_gain(old, recommender, data, split, before, ranked)
        about["warm_start"]["gain"] = gain
    return recommender


@contextmanager
def _display(
    progress: Progress | bool, name: str, config: TrainConfig
) -> Iterator[Progress | None]:
    """What is told of a training's progress: the caller's own, a bar, or nothing."""
    if progress is True:
        with TrainingProgress(name, config.max_epochs, config.max_minutes) as bar:
            yield bar
    else:
        yield progress or None


def _ending(result: FitResult) -> dict[str, Any]:
    """How training ended, for provenance.json."""
    ending = asdict(result)
    del ending["rows"]
    return ending


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from None
    return device


def evaluate(
    recommender: Recommender,
    histories: Histories | str | Path | None = None,
    split: Part = "test",
    *,
    protocol: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Metrics:
    """Rank every target of a split among the whole catalog.

    Parameters
    ----------
    recommender : Recommender
    histories : Histories, path or None
        The recommender's own training data by default. Items it does not know are left out of
        inputs, and such targets are misses.
    split : {"test", "validation"}
        Which targets.
    protocol : str or None
        "leave-one-out", "global-time" or "prequential"; by default the one it was trained under,
        and the only one whose test events it has not seen.
    progress : callable or None
        Called with (events read, events in all).

    Returns
    -------
    Metrics
        A mapping: "ndcg@10", "hr@10", "mrr@10", …, "unfiltered/ndcg@10", …, with intervals,
        buckets, counts and notes as attributes. A recommender with a folder also keeps it there,
        as metrics.json and ranks.parquet.
    """
    check_choice("split", split, Part)
    data = recommender.data() if histories is None else histories
    data = data if isinstance(data, Histories) else open_histories(data)
    trained_under = recommender.train_config.split
    made = make_split(protocol or trained_under, data)
    aligned = align(data, made, recommender.catalog)
    targets = getattr(aligned.split, split)
    if not len(targets):
        raise LongrecError(f"{data.path}: the split {made.name!r} has no {split} targets")
    if not len(aligned.histories.items):
        raise DataError(
            f"{data.path}: the recommender knows none of its items; evaluate it on histories with "
            "item ids of the kind that it was trained on"
        )
    check_times(recommender.model, data.times)
    ranks = rank_targets(
        recommender.model, aligned.histories, targets, recommender.train_config.context, progress
    )
    notes = dict(aligned.split.notes)
    own = recommender.provenance.get("data", {}).get("fingerprint") == data.fingerprint
    if own and made.name != trained_under:
        notes["warning"] = (
            f"trained under {trained_under}, so that some of these targets were training events"
        )
    warm = recommender.provenance.get("warm_start", {})
    before = (warm.get("targets_trained_before") or {}).get(split)
    if own and before:
        notes["warning"] = f"the warm start's old run was trained on {before:,} of these targets"
    metrics = summarise_ranks(ranks, made.name, notes, part=split)
    if recommender.folder is not None:
        _keep(recommender, metrics, ranks, data)
    return metrics


def _keep(recommender: Recommender, metrics: Metrics, ranks: pl.DataFrame, data: Histories) -> None:
    """Leave the evaluation beside the model."""
    folder = recommender.folder
    assert folder is not None
    document = metrics.to_dict() | {
        "provenance": provenance(data, recommender.train_config.seed),
        "model": recommender.name,
    }
    try:
        write_file(folder / "ranks.parquet", serialise(ranks, "parquet"))
        write_file(folder / "metrics.json", json.dumps(document, indent=1))
    except OSError as error:
        raise LongrecError(f"{folder}: the evaluation was not kept: {error}") from error
