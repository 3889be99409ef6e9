"""Train and evaluate: what `longrec.train` and `longrec.evaluate` do, for every caller."""

from __future__ import annotations

import fcntl
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import polars as pl
import torch

from longrec import console
from longrec.data.aligned import align
from longrec.data.histories import Histories, open_histories
from longrec.data.splits import make_split
from longrec.errors import DataError, LongrecError, UsageError
from longrec.evaluation.ranking import rank_targets
from longrec.evaluation.summary import Metrics, summarise_ranks
from longrec.files import write_file
from longrec.models import build_model
from longrec.output import serialise
from longrec.provenance import provenance
from longrec.recommender import Recommender, check_times
from longrec.settings import check_model, parse_settings, settings_of
from longrec.training.checkpoint import PREFIX, drop_checkpoints
from longrec.training.config import TrainConfig
from longrec.training.fit import FitResult, Progress, fit

Part = Literal["test", "validation"]
PARTS: tuple[Part, ...] = ("test", "validation")


def train(
    histories: Histories | str | Path,
    model: str = "elastic",
    out: str | Path | None = None,
    *,
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
    model : str
        A name of the registry (`longrec models` lists them).
    out : path or None
        The run's folder: checkpoints and log while training, the recommender afterwards. None
        keeps the recommender in memory only.
    resume : bool
        Go on with the run in `out` that was interrupted. Settings may be left out then; those that
        are given must be the run's own.
    device : str
        "auto" (a GPU if torch sees one), "cpu", "cuda", "cuda:1", …
    progress : callable, bool or None
        Told after every step; True shows a bar, None shows it in a terminal or a notebook.
    **settings
        Keys of the model's config and of `longrec.training.config.TrainConfig`.

    Returns
    -------
    Recommender
        With the weights that validated best; saved to `out` if that was given.

    Raises
    ------
    UsageError
        For an unknown model, key or value, or an `out` that may not be written to.
    LongrecError
        When training cannot go on: nothing to train on, a loss that is not finite, changed data.
    """
    data = histories if isinstance(histories, Histories) else open_histories(histories)
    check_model(model)
    if out is None:
        if resume:
            raise UsageError("resume needs the run's folder: pass out=")
        with tempfile.TemporaryDirectory(prefix="longrec-") as temporary:
            return _train(data, model, Path(temporary), False, device, progress, settings, None)
    folder = Path(out)
    with _claimed(folder, resume):
        return _train(data, model, folder, resume, device, progress, settings, folder)


def _train(
    data: Histories,
    name: str,
    run: Path,
    resume: bool,
    device: str,
    progress: Progress | bool | None,
    settings: Mapping[str, Any],
    save_to: Path | None,
) -> Recommender:
    plan = _plan(data, name, run, resume, settings)
    model_config, config = parse_settings(name, plan["settings"])
    split = make_split(config.split, data)
    torch.manual_seed(config.seed)
    model = build_model(name, model_config, data.n_items).to(_device(device))
    check_times(model, data.times)
    with _display(progress, name, config) as told:
        result = fit(model, data, split, config, run, resume, told)
    data.check()
    recommender = Recommender(
        name,
        model,
        model_config,
        config,
        data.catalog,
        plan["provenance"] | {"training": _ending(result), "split": dict(split.notes)},
    )
    if save_to is not None:
        recommender.save(save_to)
        (save_to / "training.json").unlink(missing_ok=True)
        drop_checkpoints(save_to)
    return recommender


@contextmanager
def _display(
    progress: Progress | bool | None, name: str, config: TrainConfig
) -> Iterator[Progress | None]:
    """What is told of a training's progress: the caller's own, a bar, or nothing."""
    if progress is None:
        progress = console.watched()
    if progress is True:
        with console.TrainingProgress(name, config.max_epochs, config.max_minutes) as bar:
            yield bar
    else:
        yield progress or None


def _plan(
    data: Histories, name: str, run: Path, resume: bool, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What this run trains and from what, written before the first step; read when resuming."""
    plan = _begun_plan(run) if resume else None
    if plan is not None:
        begun, kept = plan["model"], plan["settings"]
        if begun != name:
            raise UsageError(f"{run} trains {begun!r}, not {name!r}; resume with its model")
        given = _all_settings(name, settings)
        for key in settings:
            if given[key] != kept.get(key):
                raise UsageError(
                    f"{run} was started with {key}={kept.get(key)!r}, not {given[key]!r}: a "
                    "resumed run keeps its settings; leave the key out, or train in a new folder"
                )
        if plan["provenance"]["data"]["fingerprint"] != data.fingerprint:
            raise DataError(
                f"{data.path} is not what {run} was started on: its fingerprint differs. Resume "
                "with the same histories, or train in a new folder."
            )
        data.verify()
        return plan
    everything = _all_settings(name, settings)
    plan = {
        "model": name,
        "settings": everything,
        "provenance": provenance(data, everything["seed"]),
    }
    write_file(run / "training.json", json.dumps(plan, indent=1))
    return plan


def _begun_plan(run: Path) -> dict[str, Any] | None:
    """Model, settings and provenance of a run that was begun and has not ended; None without."""
    path = run / "training.json"
    if not path.is_file():
        return None
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
        str(plan["provenance"]["data"]["fingerprint"])
        whole = {"model": plan["model"], "settings": dict(plan["settings"])}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}): train again in a new folder.") from error
    return whole | {"provenance": plan["provenance"]}


def _all_settings(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    model_config, config = parse_settings(name, settings)
    return settings_of(model_config) | settings_of(config)


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


@contextmanager
def _claimed(folder: Path, resume: bool) -> Iterator[None]:
    """Hold a run's folder: no other training may write to it meanwhile.

    A training that fails before its first checkpoint leaves the folder as it was, so that the call
    can be mended and given again; one that is killed or interrupted leaves what --resume needs.
    """
    new = not folder.exists()
    begun = _check_free(folder, resume)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise LongrecError(f"{folder} cannot be written to: {error}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LongrecError(f"{folder}: another training is writing to it") from None
        _check_free(folder, resume)  # the training that held it may have ended just now
        try:
            yield
        except Exception:
            trained = (folder / "config.json").is_file() or any(folder.glob(f"{PREFIX}*"))
            if not begun and not trained:
                (folder / "training.json").unlink(missing_ok=True)
                if new:
                    shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            (folder / ".lock").unlink(missing_ok=True)


def _check_free(folder: Path, resume: bool) -> bool:
    """Raise unless a training may use the folder; tell whether a run was begun in it."""
    if (folder / "config.json").is_file():
        raise UsageError(
            f"{folder} holds a trained recommender"
            + ("; it has ended and needs no --resume" if resume else "; choose another folder")
        )
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; --out takes a folder")
    begun = (folder / "training.json").is_file()
    if begun and not resume:
        raise UsageError(
            f"{folder} holds a run that has not ended: pass --resume (resume=True) to go on with "
            "it, or choose another folder"
        )
    if not begun and folder.is_dir() and any(p.name != ".lock" for p in folder.iterdir()):
        raise UsageError(f"{folder} holds other files and no run: choose an empty or new folder")
    return begun


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
    if split not in PARTS:
        raise UsageError(f"split is {split!r}; choose one of {', '.join(PARTS)}")
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
