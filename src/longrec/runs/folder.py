"""A run's folder while it trains: what is trained there and from what, and who may write to it.

RUN/training.json holds the plan: model, settings and provenance. It is written before the first
step, so that --resume needs nothing but the folder and the histories, and removed at the end.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from longrec.artifact.provenance import provenance
from longrec.core.errors import DataError, UsageError
from longrec.core.lock import LOCK, locked
from longrec.core.sealed import SealedKind
from longrec.data.histories import Histories
from longrec.models import MODELS
from longrec.models.common.settings import check_model, parse_settings
from longrec.recommender import Recommender
from longrec.runs.warm_start import name_of, origin
from longrec.training.checkpoint import PREFIX, drop_checkpoints

DEFAULT_MODEL = "elastic"
BEGUN_RUN = SealedKind(
    "a run that was begun",
    "training.json",
    version=None,
    mend="train again in a new folder",
    made_by="longrec train",
    with_digests=False,
    keys={"model": str, "settings": dict, "provenance": dict},
)


@dataclass(frozen=True)
class Plan:
    """What a run trains.

    Attributes
    ----------
    model : its name in the registry.
    settings : all keys of the model's config and of TrainConfig.
    provenance : data, command, seed, …; "warm_start" where it goes on from another run.
    """

    model: str
    settings: dict[str, Any]
    provenance: dict[str, Any]


def make_plan(
    data: Histories,
    run: Path,
    model: str | None,
    settings: Mapping[str, Any],
    old: Recommender | None,
) -> Plan:
    """Plan a new run, from the weights of `old` if there is one, and write the plan down."""
    if old is None:
        name = model or DEFAULT_MODEL
        everything = _checked(name, settings)
    else:
        name = old.name
        own = asdict(old.model_config)
        if model not in (None, name):
            raise UsageError(
                f"{name_of(old)} is of the model {name!r}, not {model!r}: a warm start goes on "
                "with the same model; leave --model out, or train without --warm-start"
            )
        everything = _checked(name, own | asdict(old.train_config) | dict(settings))
        for key, value in own.items():
            if everything[key] != value:
                raise UsageError(
                    f"{name_of(old)} was built with {key}={value!r}, not {everything[key]!r}: a "
                    "warm start keeps the model's settings; leave the key out, or train without "
                    "--warm-start"
                )
    about = provenance(data, everything["seed"])
    if (module := MODELS.plugin(name)) is not None:
        about["plugin"] = module
    if old is not None:
        about["warm_start"] = origin(old)
    plan = Plan(name, everything, about)
    BEGUN_RUN.write(run, asdict(plan))
    return plan


def read_plan(run: Path) -> Plan | None:
    """The plan of a run that was begun and has not ended; None without."""
    path = run / BEGUN_RUN.document
    if not path.is_file():
        return None
    document = BEGUN_RUN.read(run)
    plan = Plan(document["model"], document["settings"], document["provenance"])
    try:
        str(plan.provenance["data"]["fingerprint"])
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}): {BEGUN_RUN.mend}.") from error
    check_model(plan.model, plan.provenance.get("plugin"))
    try:
        parse_settings(plan.model, plan.settings)
    except UsageError as error:
        raise DataError(f"{path}: {error}") from None
    return plan


def check_resumable(
    plan: Plan,
    data: Histories,
    run: Path,
    model: str | None,
    settings: Mapping[str, Any],
    old: Recommender | None,
) -> None:
    """Raise unless a call to resume agrees with the plan; what it leaves out is the plan's."""
    if model not in (None, plan.model):
        raise UsageError(f"{run} trains {plan.model!r}, not {model!r}; resume with its model")
    given = _checked(plan.model, plan.settings | dict(settings))
    for key, value in plan.settings.items():
        if given[key] != value:
            raise UsageError(
                f"{run} was started with {key}={value!r}, not {given[key]!r}: a resumed run keeps "
                "its settings; leave the key out, or train in a new folder"
            )
    begun = plan.provenance.get("warm_start")
    if old is not None and (begun is None or begun["digest"] != origin(old)["digest"]):
        raise UsageError(
            f"{run} was started {'without a warm start' if begun is None else 'from other weights'}"
            f", not from {name_of(old)}: leave --warm-start out, or train in a new folder"
        )
    if plan.provenance["data"]["fingerprint"] != data.fingerprint:
        raise DataError(
            f"{data.path} is not what {run} was started on: its fingerprint differs. Resume "
            "with the same histories, or train in a new folder."
        )
    data.verify()


def end_run(run: Path) -> None:
    """Remove what only a run that has not ended needs."""
    (run / BEGUN_RUN.document).unlink(missing_ok=True)
    drop_checkpoints(run)


def _checked(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """All keys of the model and of training, with values of the right type."""
    model_config, config = parse_settings(name, settings)
    return asdict(model_config) | asdict(config)


@contextmanager
def locked_run(folder: Path, resume: bool) -> Iterator[None]:
    """Lock a run's folder, so that no other training writes to it meanwhile.

    A training that fails before its first checkpoint leaves the folder as it was, so that the call
    can be mended and given again; one that is killed or interrupted leaves what --resume needs.
    """
    new = not folder.exists()
    begun = _check_free(folder, resume)
    with locked(folder, "training"):
        _check_free(folder, resume)  # the training that locked it may have ended just now
        try:
            yield
        except Exception:
            trained = (folder / "config.json").is_file() or any(folder.glob(f"{PREFIX}*"))
            if not begun and not trained:
                (folder / BEGUN_RUN.document).unlink(missing_ok=True)
                if new:
                    shutil.rmtree(folder, ignore_errors=True)
            raise


def _check_free(folder: Path, resume: bool) -> bool:
    """Raise unless a training may use the folder; tell whether a run was begun in it."""
    if (folder / "config.json").is_file():
        raise UsageError(
            f"{folder} holds a trained recommender"
            + ("; it has ended and needs no --resume" if resume else "; choose another folder")
        )
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; --out takes a folder")
    begun = (folder / BEGUN_RUN.document).is_file()
    if begun and not resume:
        raise UsageError(
            f"{folder} holds a run that has not ended: pass --resume (resume=True) to go on with "
            "it, or choose another folder"
        )
    if not begun and folder.is_dir() and any(p.name != LOCK for p in folder.iterdir()):
        raise UsageError(f"{folder} holds other files and no run: choose an empty or new folder")
    return begun
