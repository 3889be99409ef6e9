"""What is compared: models and variants, budget, seeds; kept in FOLDER/compare.json.

A variant is written NAME:KEY=VALUE:KEY=VALUE, and is called in all results as it was written;
NAME:recipe=paper has the settings of the model's paper, NAME:recipe=auto those that suit the log
and the budget; AUTO is what `longrec train --recipe auto` trains, the model chosen too.
Everything is checked before the first run begins.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from longrec.core.arguments import check_names
from longrec.core.choices import MOST_SEEDS
from longrec.core.errors import DataError, UsageError
from longrec.core.format import listed
from longrec.core.sealed import SealedKind
from longrec.models import MODELS, CountingModel
from longrec.models.common.registry import config_keys
from longrec.models.common.settings import (
    check_model,
    parse_settings,
    stored_settings,
    with_recipe,
)
from longrec.runs.baselines import BASELINES
from longrec.runs.folder import DEFAULT_MODEL, OF_ITS_EVENTS

COMPARISON = SealedKind(
    "a comparison",
    "compare.json",
    version=1,
    mend="compare in a new folder",
    made_by="longrec compare",
    with_digests=False,
)
AUTO = "auto"
"""Names no model: the recipe chooses it."""
_SET_BY = {"max_minutes": "the budget", "seed": "the number of seeds"}
_MUST_STAY = {
    "fingerprint": "histories with the fingerprint",
    "budget": "a budget in minutes of",
    "settings": "the common settings",
    "device": "the device",
    "threads": "a number of CPU threads of",
}


@dataclass(frozen=True)
class Entry:
    """A model to compare.

    Attributes
    ----------
    name : the text that names it.
    model : its model; None: the recipe chooses it.
    settings : what it trains with.
    recipe : "auto" where further settings are chosen as it begins to train, else "own".
    plugin : the module that other processes find the model by, None of ours.
    """

    name: str
    model: str | None
    settings: dict[str, str]
    recipe: str
    plugin: str | None

    @property
    def counted(self) -> bool:
        """Whether it is fitted by counting, so that every seed gives the same."""
        return self.model is not None and issubclass(MODELS[self.model], CountingModel)


@dataclass(frozen=True)
class Job:
    """One run: a model with a seed, and the folders of its run and of its logs."""

    entry: Entry
    seed: int
    run: Path
    logs: Path


@dataclass(frozen=True)
class Plan:
    """What a comparison's folder is about.

    Attributes
    ----------
    histories, fingerprint : the data.
    models : texts, in the order given.
    budget : minutes of training for each run, validation included.
    settings : common to all models.
    seeds : trainings of each model, with the seeds 0, 1, …
    device, threads : what a run may use.
    """

    histories: str
    fingerprint: str
    models: tuple[str, ...]
    budget: float
    settings: dict[str, str]
    seeds: int
    device: str
    threads: int

    def __post_init__(self) -> None:
        if not self.budget > 0:
            raise UsageError(f"the budget is {self.budget} minutes; it must be above 0")
        if not 1 <= self.seeds <= MOST_SEEDS:
            raise UsageError(f"seeds is {self.seeds}; it must be in [1, {MOST_SEEDS}]")
        if not self.models:
            raise UsageError("no model to compare: name one or more, such as elastic,sasrec")
        for n, name in enumerate(self.models):
            if name in self.models[:n]:
                raise UsageError(f"the model {name!r} is named twice")
        for key in self.settings:
            if key in _SET_BY:
                raise UsageError(f"{key} is set by {_SET_BY[key]}: leave it out")

    def entry(self, text: str) -> Entry:
        """A model with its settings, all checked.

        Raises
        ------
        UsageError
            For an unknown model or key, or a value that does not fit.
        """
        name, own = parse_variant(text)
        for key in own:
            if key in _SET_BY:
                raise UsageError(f"{text!r}: {key} is set by {_SET_BY[key]}: leave it out")
            if key in ("protocol", "cut"):
                raise UsageError(
                    f"{text!r}: all models are compared under one protocol: set {key} for all of "
                    "them"
                )
        common, recipe = self.settings, own.pop("recipe", "own")
        if name == AUTO:
            if recipe != "own":
                raise UsageError(f"{text!r}: {AUTO} is a recipe itself: leave recipe={recipe} out")
            name, recipe = DEFAULT_MODEL, "auto"
            model = None
        else:
            model = check_model(name)
        if issubclass(MODELS[name], CountingModel):  # others' settings are not for it
            known = config_keys(MODELS[name].config_class)
            common = {
                k: v
                for k, v in common.items()
                if k in known or not (_is_of_a_model(k) or k in OF_ITS_EVENTS)
            }
        own = setting_texts(with_recipe(name, recipe, own))
        settings = common | own | {"max_minutes": str(self.budget)}
        try:
            parse_settings(name, settings)
        except UsageError as error:
            raise UsageError(f"{text}: {error}") from None
        plugin = MODELS.plugin(name)
        if plugin == "__main__":
            raise UsageError(
                f"model {name!r} is defined in the program that runs, which the processes of a "
                "comparison cannot import: define it in a module (a file) of its own, and import it"
            )
        return Entry(text, model, settings, "auto" if recipe == "auto" else "own", plugin)

    def jobs(self, folder: Path) -> list[Job]:
        """Every run, all models with the first seed before any with the second."""
        jobs = []
        entries = [self.entry(text) for text in self.models]
        for seed in range(self.seeds):
            for entry in entries:
                if seed == 0 or not entry.counted:
                    name = folder_name(entry.name) + (f"-seed{seed}" if seed else "")
                    jobs.append(Job(entry, seed, folder / "runs" / name, folder / "logs" / name))
        return jobs

    def write(self, folder: Path) -> None:
        """Write the plan into the comparison's folder."""
        COMPARISON.write(folder, COMPARISON.describe(asdict(self)))

    def check_continues(self, begun: Plan, folder: Path) -> None:
        """Raise UsageError unless this plan is the one begun, with more models or seeds at most."""
        for key, words in _MUST_STAY.items():
            old, new = getattr(begun, key), getattr(self, key)
            if old != new:
                raise UsageError(
                    f"{folder} was begun with {words} {old}, not {new}: compare with that, or in "
                    "a new folder"
                )
        missing = [name for name in begun.models if name not in self.models]
        if missing:
            raise UsageError(
                f"{folder} also compares {listed(missing)}: models can be added and not left "
                "out; name them too, or compare in a new folder"
            )
        if self.seeds < begun.seeds:
            raise UsageError(
                f"{folder} was begun with {begun.seeds} seeds, not {self.seeds}: seeds can be "
                "added and not left out"
            )


def read_plan(folder: Path) -> Plan | None:
    """The plan of a comparison that was begun in a folder; None where there is none.

    Raises
    ------
    DataError
        When compare.json is damaged or of another version.
    UsageError
        When the folder is a file or holds other things.
    """
    document = COMPARISON.begun(folder, "comparison")
    if document is None:
        return None
    try:
        settings = stored_settings(document["settings"])
        return Plan(**document | {"models": tuple(document["models"]), "settings": settings})
    except (KeyError, TypeError, UsageError) as error:
        path = folder / COMPARISON.document
        raise DataError(f"{path} is damaged ({error}): {COMPARISON.mend}.") from error


def clear(folder: Path) -> None:
    """Remove a comparison from its folder: runs, logs, results, and the plan."""
    for name in ("runs", "logs"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("results.json", "results.csv", "report.html", COMPARISON.document):
        (folder / name).unlink(missing_ok=True)


def model_texts(models: str | Sequence[str]) -> tuple[str, ...]:
    """Names from a list, or from one text with commas."""
    texts = models.split(",") if isinstance(models, str) else check_names("models", models)
    return tuple(text.strip() for text in texts if text.strip())


def with_baselines(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Some models, and then the baselines that are not among them; nothing beside no model."""
    named = {text.partition(":")[0] for text in texts}
    return (*texts, *(name for name in BASELINES if texts and name not in named))


def parse_variant(text: str) -> tuple[str, dict[str, str]]:
    """ "NAME:KEY=VALUE:KEY=VALUE" -> the model's name, and its settings as texts."""
    name, *parts = text.split(":")
    own: dict[str, str] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not (key and equals):
            raise UsageError(
                f"{text!r}: a variant is written NAME:KEY=VALUE:KEY=VALUE, but {part!r} is no "
                "KEY=VALUE"
            )
        if key in own:
            raise UsageError(f"{text!r} gives {key!r} twice")
        own[key] = value
    return name, own


def setting_texts(settings: Mapping[str, Any]) -> dict[str, str]:
    """Values as a command line has them."""
    return {k: "none" if v is None else str(v) for k, v in settings.items()}


def _is_of_a_model(key: str) -> bool:
    """Whether a setting belongs to some model and so not to training."""
    return any(key in config_keys(model.config_class) for model in MODELS.values())


def folder_name(text: str) -> str:
    """A model's text as a name that every file system and shell takes; no two texts share one."""
    plain = text.replace(":", ",")
    safe = re.sub(r"[^A-Za-z0-9._=,+-]", "-", plain)[:120]
    if safe == plain and "," not in text:
        return safe
    return f"{safe}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"
