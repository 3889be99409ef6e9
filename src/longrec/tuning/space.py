"""What is searched of a model: its settings where the search begins, and the values tried.

A model declares what is worth searching of its own settings (`Model.searched`, which sequence
models inherit); of training's those of `TRAINING` are searched of every model that is trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from longrec.config.training import TrainConfig
from longrec.core.errors import UsageError
from longrec.models import MODELS, CountingModel
from longrec.models.common.registry import config_keys
from longrec.models.common.settings import check_model, go_together, parse_settings
from longrec.tuning.values import Choices, Range, Value, values_of

if TYPE_CHECKING:
    import optuna

TRAINING: Mapping[str, str] = MappingProxyType(
    {
        "learning_rate": "x0.3..x3",
        "batch_tokens": "x0.5,x1,x2,x4",
        "weight_decay": "0.001..0.3",
        "average": "0.99,0.997,0.999,0.9995",
    }
)
"""What is searched of training's settings, unless it is said otherwise."""
WITH_WIDTH = ("ffn_dim", "heads")
"""Settings that grow as the width does, where nobody gives or searches them."""
SAME_FOR_ALL = {
    "protocol": "trials are compared on the same targets",
    "cut": "trials are compared on the same targets",
    "validation_users": "trials are compared on the same targets",
    "seed": "the best of several seeds is luck",
    "clock": "trials are given the same time",
    "max_minutes": "it is set by the minutes of a trial",
    "max_epochs": "the minutes of a trial say how long one lasts",
}
"""Settings that cannot be searched, and why."""


@dataclass(frozen=True)
class Space:
    """What is searched of one model.

    Attributes
    ----------
    model : its name.
    begin : all settings of the trial that the search begins with.
    given : keys of those that the caller chose.
    searched : what is tried, by key.
    plain : what `longrec train` sets by itself on the logs, or on one of them.
    """

    model: str
    begin: Mapping[str, Value]
    given: frozenset[str]
    searched: Mapping[str, Range | Choices]
    plain: Mapping[str, Value]

    def draw(self, trial: optuna.Trial, begins: bool) -> dict[str, Value]:
        """All settings of a trial; `begins`: of the one with the settings to begin with."""
        chosen = {
            key: values.drawn(trial, self.name_of(key))
            for key, values in self.searched.items()
            if not begins or self.begin[key] in values
        }
        if begins:
            return {**self.begin}
        return self.fitting(self.with_width({**self.begin, **chosen}))

    def fitting(self, settings: dict[str, Value]) -> dict[str, Value]:
        """Settings in which one that the recipe chose has its default if it hinders others."""
        if not go_together(self.model, settings):
            for key, value in self.plain.items():
                by_recipe = self.begin[key] != value and key not in {*self.given, *self.searched}
                if by_recipe and go_together(self.model, {**settings, key: value}):
                    return {**settings, key: value}
        return settings

    def with_width(self, settings: dict[str, Value]) -> dict[str, Value]:
        """Settings in which what grows with the width has grown with it."""
        wide, narrow = settings.get("dim"), self.begin.get("dim")
        if "dim" not in self.searched or not isinstance(wide, int) or not isinstance(narrow, int):
            return settings
        for key in WITH_WIDTH:
            old = self.begin.get(key)
            if key in self.given or key in self.searched or not isinstance(old, int):
                continue
            wider = {**settings, key: max(1, round(old * wide / narrow))}
            if key != "heads" or go_together(self.model, wider):
                settings = wider
        return settings

    def changed(self, settings: Mapping[str, Value]) -> dict[str, Value]:
        """The settings that are not those to begin with."""
        return {key: value for key, value in settings.items() if value != self.begin[key]}

    def first(self) -> dict[str, Value]:
        """The parameters, as trials have them, of the settings to begin with."""
        return {
            self.name_of(key): self.begin[key]
            for key, values in self.searched.items()
            if self.begin[key] in values
        }

    def name_of(self, key: str) -> str:
        """A setting as a trial's parameter: two models may have other values of one key."""
        return f"{self.model}:{key}"


def space_of(
    model: str,
    given: Mapping[str, Any],
    fixed: Mapping[str, Any],
    search: Mapping[str, str],
    with_times: Sequence[bool] = (),
    by_recipe: Mapping[str, Any] = MappingProxyType({}),
) -> Space:
    """What is searched of a model.

    Parameters
    ----------
    model : its name in the registry.
    given : settings to begin with, of a file.
    fixed : settings that no trial changes.
    search : the values of settings to search, as text; without any those declared.
    with_times : of each log whether it has times: a model may have other defaults then, and begins
        with these if all of them have.
    by_recipe : settings to begin with that nobody gave.

    Raises
    ------
    UsageError
        For unknown keys, values that do not fit, or nothing to search.
    """
    trained = MODELS[check_model(model)]
    timed = trained.settings_with_times
    by_times = timed if with_times and all(with_times) else {}
    config, training = parse_settings(model, {**by_times, **by_recipe, **given, **fixed})
    begin = asdict(config) | asdict(training)
    own, plain = type(config), config_keys(type(config)) | config_keys(TrainConfig)
    if any(with_times):
        plain |= timed
    declared = dict(trained.searched)
    if not issubclass(trained, CountingModel):
        declared |= TRAINING
    chosen = {key: text or declared.get(key, "") for key, text in search.items() if key in begin}
    if not search:
        chosen = {key: text for key, text in declared.items() if key in begin and key not in fixed}
    for key in chosen:
        if key in SAME_FOR_ALL:
            raise UsageError(f"search {key}: it cannot be searched, since {SAME_FOR_ALL[key]}")
        if key in fixed:
            raise UsageError(f"{key} is both searched and fixed by a setting: leave one out")
    if search and not chosen:
        raise UsageError(
            f"search names {', '.join(search)}, none of which {model} has: search one of its "
            "settings, too, or leave the model out"
        )
    if not chosen:
        raise UsageError(
            f"there is nothing to search of {model}: it declares nothing; give --search "
            "KEY=LOW..HIGH or KEY=A,B (search=), see `longrec models " + model + "`"
        )
    keys = config_keys(own)
    found = {
        key: values_of(own if key in keys else TrainConfig, key, text, begin[key])
        for key, text in chosen.items()
    }
    return Space(model, begin, frozenset({*given, *fixed}), found, plain)


def check_search(models: Sequence[str], search: Iterable[str]) -> None:
    """Raise UsageError for a key to search that neither training nor any of the models has."""
    known = [config_keys(TrainConfig), *(config_keys(MODELS[m].config_class) for m in models)]
    for key in search:
        if not any(key in keys for keys in known):
            names = " or ".join(models)
            raise UsageError(f"search {key}: there is no such setting of {names} or of training")
