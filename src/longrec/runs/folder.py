"""A run's folder while it trains: what is trained there and from what, and who may write to it.

RUN/training.json holds the plan: model, settings and provenance. It is written before the first
step, so that --resume needs nothing but the folder and the histories, and removed at the end. A
folder may hold a trained recommender as well: that one stands until the new one does.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from longrec.artifact.folder import RECOMMENDER
from longrec.artifact.provenance import provenance
from longrec.config.toml_file import ConfigFile
from longrec.core.choices import Recipe, check_choice
from longrec.core.errors import DataError, UsageError
from longrec.core.files import disk_full
from longrec.core.lock import LOCK, locked
from longrec.core.sealed import SealedKind
from longrec.data.histories import Histories
from longrec.data.splits import ALL, make_split
from longrec.models import MODELS
from longrec.models.common.settings import (
    check_model,
    check_settings,
    parse_settings,
    stored_settings,
    with_recipe,
)
from longrec.recommender import Recommender, load
from longrec.runs.warm_start import name_of, origin
from longrec.training.checkpoint import PREFIX, drop_checkpoints, has_checkpoint
from longrec.training.log_statistics import LogStatistics
from longrec.training.recipe import Chosen, choose

DEFAULT_MODEL = "elastic"
LIMITS = ("max_epochs", "max_minutes")
"""Settings that say when a run ends at the latest: one that goes on may be given more."""
OF_ITS_EVENTS = ("teachers", "teacher_share")
"""Settings that a warm start does not inherit: teachers were trained on the same events."""
MEASURED = "measured"
"""Of a run that is trained for service: the folder inside of the run that was measured first."""
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
    provenance : data, command, seed, …; "warm_start" where it goes on from another run, "refit"
        and "policy" where it trains on all events as another run was trained on some, "chosen"
        where the recipe "auto" chose model and settings.
    final : whether a run with these settings is measured first, in a folder inside, and what is
        trained here is its refit.
    """

    model: str
    settings: dict[str, Any]
    provenance: dict[str, Any]
    final: bool = False

    @property
    def refit(self) -> Mapping[str, Any] | None:
        """What the run that this refits was, None where it refits none."""
        return self.provenance.get("refit")


def make_plan(
    data: Histories,
    model: str | None,
    settings: Mapping[str, Any],
    old: Recommender | None,
    *,
    final: bool = False,
    recipe: str | None = None,
    config: ConfigFile | None = None,
) -> Plan:
    """Plan a new run, from the weights of `old` if there is one."""
    chosen = None
    if recipe is None:
        recipe = "own" if model is not None or old is not None else "auto"
    if old is None:
        check_choice("recipe", recipe, Recipe)
        name = model or DEFAULT_MODEL
        if config is not None:
            check_settings(name, config.settings, config.path)
        if recipe == "auto":
            chosen = choose_for(data, model, settings)
            name, settings = chosen.model, chosen.settings | dict(settings)
        else:
            settings = with_recipe(name, recipe, settings)
        if recipe != "paper" and data.times is not None:
            settings = {**MODELS[name].settings_with_times, **settings}
        everything = _checked(name, settings)
    else:
        if recipe != "own":
            raise UsageError(
                f"recipe is {recipe!r}, but a warm start keeps the settings of {name_of(old)}: "
                "leave the recipe out"
            )
        name = old.name
        if config is not None:
            check_settings(name, config.settings, config.path)
        own = asdict(old.model_config)
        if model not in (None, name):
            raise UsageError(
                f"{name_of(old)} is of the model {name!r}, not {model!r}: a warm start goes on "
                "with the same model; leave --model out, or train without --warm-start"
            )
        # Of a final run those by which it was measured: its own has nothing to validate.
        measured = old.provenance.get("refit", {}).get("settings", {})
        inherited = asdict(old.train_config) | measured
        for key in OF_ITS_EVENTS:
            inherited.pop(key)
        everything = _checked(name, own | inherited | dict(settings))
        for key, value in own.items():
            if everything[key] != value:
                raise UsageError(
                    f"{name_of(old)} was built with {key}={value!r}, not {everything[key]!r}: a "
                    "warm start keeps the model's settings; leave the key out, or train without "
                    "--warm-start"
                )
    if everything["protocol"] == ALL:
        raise UsageError(
            f"protocol is {ALL!r}, which validates nothing, so that nothing says how long to "
            "train: train with --final (final=True), or a run as ever and then `longrec refit RUN`"
        )
    about = describe_run(data, name, everything["seed"], old)
    if everything["teachers"] is not None:
        about["teachers"] = _teachers(everything["teachers"])
    if recipe != "own":
        about["recipe"] = recipe
    if chosen is not None:
        about["chosen"] = chosen.about()
    if config is not None:
        about["config"] = config.about()
    return Plan(name, everything, about, final)


def _teachers(given: str) -> list[dict[str, Any]]:
    """What identifies each of the runs that a run learns from."""
    folders = [text.strip() for text in given.split(",")]
    told = f"teachers is {given!r}: give folders of runs, with commas between"
    if not all(folders):
        raise UsageError(told)
    try:
        return [origin(load(Path(folder).expanduser())) for folder in folders]
    except DataError as error:
        raise UsageError(f"{told}. {error}") from error


def check_apart(run: Path, plan: Plan) -> None:
    """Raise UsageError where a run would remove a run that it comes from.

    Teachers' weights are asked for when it goes on or is refitted, and so they may not stand in its
    own folder either, which a warm start or a refit may replace.
    """
    about, own = plan.provenance, run.resolve()
    sources = [("teachers", one["run"]) for one in about.get("teachers", ())]
    for name in ("warm_start", "refit"):
        source = about.get(name, {}).get("run")
        if source is not None and source != str(own):
            sources.append((name, source))
    for name, source in sources:
        if Path(source).is_relative_to(own):
            raise UsageError(
                f"{name} has {source}, which this training replaces: take another folder (--out)"
            )


def choose_for(data: Histories, model: str | None, settings: Mapping[str, Any]) -> Chosen:
    """What the recipe "auto" chooses beside settings, and the model too where it is None."""
    everything = _checked(model or DEFAULT_MODEL, settings)
    split = make_split(everything["protocol"], data, everything["cut"])
    given = {key: everything[key] for key in settings}
    return choose(LogStatistics.of(data, split), model, given)


def describe_run(data: Histories, model: str, seed: int, old: Recommender | None) -> dict[str, Any]:
    """The provenance of a run that begins now."""
    about = provenance(data, seed)
    if (module := MODELS.plugin(model)) is not None:
        about["plugin"] = module
    if old is not None:
        about["warm_start"] = origin(old)
    return about


def write_plan(run: Path, plan: Plan) -> None:
    """Write down what a run trains, before its first step."""
    BEGUN_RUN.write(run, asdict(plan))


def read_plan(run: Path) -> Plan | None:
    """The plan of a run that was begun and has not ended; None without."""
    path = run / BEGUN_RUN.document
    if not path.is_file():
        return None
    document = BEGUN_RUN.read(run)
    plan = Plan(
        *(document["model"], stored_settings(document["settings"]), document["provenance"]),
        final=document.get("final") is True,
    )
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
    final: bool = False,
    recipe: str | None = None,
) -> Plan:
    """The plan with the epochs and minutes that a call to resume gives; raise where it disagrees.

    What the call leaves out is the plan's.
    """
    if model not in (None, plan.model):
        raise UsageError(f"{run} trains {plan.model!r}, not {model!r}; resume with its model")
    if final and not plan.final:
        raise UsageError(
            f"{run} was started without --final (final=True): leave it out, and refit the run when "
            "it has ended"
        )
    started = plan.provenance.get("recipe", "own")
    if recipe not in (None, started):
        raise UsageError(
            f"{run} was started with the recipe {started!r}, not {recipe!r}: leave the recipe out, "
            "or train in a new folder"
        )
    given = _checked(plan.model, plan.settings | dict(settings))
    for key, value in plan.settings.items():
        if given[key] != value and key not in LIMITS:
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
    return replace(plan, settings=given)


def plan_of_ended(ended: Recommender) -> Plan:
    """The plan by which a run that has ended goes on, given more epochs or minutes.

    Raises
    ------
    UsageError
        When there is nothing to go on with: why.
    """
    name, about = name_of(ended), dict(ended.provenance)
    training = about.pop("training", {})
    stop = training.get("stop")
    if "refit" in about:
        raise UsageError(
            f"{name} is a final run, trained for the epochs that were found best: there is nothing "
            "to go on with"
        )
    if stop == "counted":
        raise UsageError(f"{name} has counted all events: there is nothing to go on with")
    if stop == "converged":
        patience = ended.train_config.patience
        raise UsageError(
            f"{name} has converged: after epoch {training['best_epoch']} of {training['epochs']}, "
            f"{patience} validations in a row were not better, so that there is nothing to go on "
            f"with. To look further, train in a new folder with a patience above {patience}"
        )
    if ended.folder is None or not has_checkpoint(ended.folder):
        raise UsageError(
            f"{name} has no checkpoint to go on from: train in a new folder, from its weights if "
            "you like (--warm-start)"
        )
    for measured in ("protocol", "policy", "baselines"):
        about.pop(measured, None)
    settings = asdict(ended.model_config) | asdict(ended.train_config)
    return Plan(ended.name, settings, about)


def check_more(plan: Plan, ended: Recommender) -> None:
    """Raise UsageError unless a plan gives a run that has ended more epochs or minutes."""
    name, training = name_of(ended), ended.provenance["training"]
    epochs, minutes = (plan.settings[key] for key in LIMITS)
    if training["stop"] == "max_epochs" and training["epochs"] >= epochs:
        raise UsageError(
            f"{name} has ended after {training['epochs']} epochs, as many as max_epochs allows: to "
            f"go on give more, such as --resume --epochs {2 * max(training['epochs'], 1)}"
        )
    spent = training["seconds"] / 60
    if training["stop"] == "max_minutes" and minutes is not None and spent >= minutes:
        raise UsageError(
            f"{name} has ended after {spent:.3g} minutes, as long as max_minutes allows: to go on "
            f"give more, such as --resume --minutes {2 * spent:.3g}"
        )


def has_ended(run: Path) -> bool:
    """Whether a run's folder holds its recommender."""
    return (run / RECOMMENDER.document).is_file()


def was_begun(run: Path) -> bool:
    """Whether a training in a run's folder has not ended."""
    return (run / BEGUN_RUN.document).is_file()


def end_run(run: Path, ended: Recommender) -> None:
    """Remove what a run that has ended does not need: one that still improved may go on."""
    (run / BEGUN_RUN.document).unlink(missing_ok=True)
    if ended.provenance["training"]["stop"] not in (*LIMITS, "on_epoch"):
        drop_checkpoints(run)


def clear_run(run: Path) -> None:
    """Remove what another training left in a folder, but for the recommender that it made."""
    (run / BEGUN_RUN.document).unlink(missing_ok=True)
    drop_checkpoints(run)
    if (run / MEASURED).is_dir():
        shutil.rmtree(run / MEASURED)


def _checked(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """All keys of the model and of training, with values of the right type."""
    model_config, config = parse_settings(name, settings)
    return asdict(model_config) | asdict(config)


@contextmanager
def locked_run(folder: Path, resume: bool, overwrite: bool) -> Iterator[None]:
    """Lock a run's folder, so that no other training writes to it meanwhile.

    A training that fails before its first checkpoint leaves the folder as it was, so that the call
    can be mended and given again; one that is killed or interrupted, or for which the disk was too
    small, leaves what --resume needs.
    """
    if resume and overwrite:
        raise UsageError("resume goes on with a run and overwrite begins anew: give one of them")
    new = not folder.exists()
    begun = _check_free(folder, resume, overwrite)
    with locked(folder, "training"):
        _check_free(folder, resume, overwrite)  # who locked it may have ended just now
        before = _made(folder)
        try:
            yield
        except Exception as error:
            resumes = disk_full(error) is not None and was_begun(folder)
            if not begun and not resumes and _made(folder) <= before:
                (folder / BEGUN_RUN.document).unlink(missing_ok=True)
                if new and not has_ended(folder):
                    shutil.rmtree(folder, ignore_errors=True)
            raise


def _made(folder: Path) -> set[Path]:
    """What a training that was stopped goes on from."""
    return {*folder.glob(f"{PREFIX}*"), *folder.glob(MEASURED)}


def _check_free(folder: Path, resume: bool, overwrite: bool) -> bool:
    """Raise unless a training may use the folder; tell whether a run was begun in it."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; --out takes a folder")
    begun = was_begun(folder)
    if (resume or overwrite) and (begun or has_ended(folder)):
        return begun
    if begun:
        raise UsageError(
            f"{folder} holds a run that has not ended: pass --resume (resume=True) to go on with "
            "it, --overwrite (overwrite=True) to begin anew, or choose another folder"
        )
    if has_ended(folder):
        raise UsageError(
            f"{folder} holds a trained recommender; choose another folder, or pass --overwrite "
            "(overwrite=True) to put a new one in its place"
        )
    if folder.is_dir() and any(p.name != LOCK for p in folder.iterdir()):
        raise UsageError(f"{folder} holds other files and no run: choose an empty or new folder")
    return False
