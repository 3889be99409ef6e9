"""Settings at the border: names and values as users give them become checked configs.

A key belongs to the model's config or to TrainConfig; which one is found by its name. Values may
be text, as on a command line. Unknown keys are errors that name the nearest known ones.
"""

from __future__ import annotations

import difflib
from collections.abc import Container, Mapping
from itertools import islice
from typing import Any

from longrec.config.border import build_config, check_values, unknown_key
from longrec.config.peers_words import meant_by, model_meant
from longrec.config.training import TrainConfig
from longrec.core.arguments import check_text
from longrec.core.choices import Recipe, check_choice
from longrec.core.errors import UsageError
from longrec.core.registry import missing_from
from longrec.models.common.base import CountingModel
from longrec.models.common.config import check_targets
from longrec.models.common.registry import MODELS, config_keys

MOST_TOLD = 20
"""Unknown settings that are told at once."""


def check_model(name: str, module: str | None = None) -> str:
    """The name itself if the registry has it, else a UsageError that lists what there is.

    Parameters
    ----------
    name : of a model.
    module : the module that registered it when a run with it was made, where that is known.
    """
    check_text("model", name)
    if name in MODELS:
        return name
    hint = ""
    if module is None:
        near = difflib.get_close_matches(name, MODELS, 1)
        meant = model_meant(name, MODELS) or (f"Did you mean {near[0]!r}?" if near else None)
        hint = f" {meant}" if meant else ""
    raise UsageError(
        f"there is no model {name!r:.100}.{hint} Models: {', '.join(sorted(MODELS))}."
        + missing_from(module)
    )


def parse_settings(model: str, values: Mapping[str, Any]) -> tuple[Any, TrainConfig]:
    """Sort settings into the model's config and TrainConfig, each value checked.

    Raises
    ------
    UsageError
        For an unknown model or key, or a value that does not fit its key.
    """
    config_class = MODELS[check_model(model)].config_class
    for_model, for_training, problems = _checked(model, values)
    config = build_config(config_class, for_model, problems)
    if "targets" in config_keys(config_class):
        try:
            check_targets(model, config.targets, MODELS[model].causal)
        except ValueError as error:
            raise UsageError(str(error)) from None
    training = build_config(TrainConfig, for_training, ())
    if training.teachers is not None:
        _check_learns(model, config)
    return config, training


def _check_learns(model: str, config: Any) -> None:
    """Raise UsageError for a model that no teacher could tell anything."""
    why = None
    if issubclass(MODELS[model], CountingModel):
        why = f"{model} is counted and learns from nobody"
    elif getattr(config, "targets", None) == "masked":
        why = f"teachers say what comes next, and {model} learns to fill in what is hidden"
    if why is not None:
        raise UsageError(f"{why}: leave teachers out")


def go_together(model: str, values: Mapping[str, Any]) -> bool:
    """Whether a model can be had with these settings."""
    try:
        parse_settings(model, values)
    except UsageError:
        return False
    return True


def check_settings(model: str, values: Mapping[str, Any], where: str) -> None:
    """Raise UsageError for settings of a file that are unknown, or no values of their keys.

    Whether they go together is seen once those of the call stand in front of them.

    Parameters
    ----------
    model : its name.
    values : mapping
    where : the file, for messages.
    """
    check_model(model)
    try:
        build_config(dict, {}, _checked(model, values)[2])
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def _checked(
    model: str, values: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Values of the model and of training, of the right types, and what is wrong with others."""
    config_class = MODELS[model].config_class
    of_model, of_training = config_keys(config_class), config_keys(TrainConfig)
    known = of_model | of_training
    others = ((key, value) for key, value in values.items() if key not in known)
    unknown = dict(islice(others, MOST_TOLD))
    told = [
        unknown_key(f"model {model!r}" if n == 0 else "It", key, known, meant_by(key, v, known))
        for n, (key, v) in enumerate(unknown.items())
    ]
    if told:
        if any(one.endswith("'.") for one in told):  # nobody knows what is meant
            own = f"Its settings: {', '.join(sorted(of_model))}" if of_model else "It has none"
            told += [f"{own}. Settings of training: {', '.join(sorted(of_training))}."]
        else:
            told += [f"(`longrec models {model}` lists its settings.)"]
        raise UsageError(" ".join(told))
    for_model, problems = check_values(config_class, _of(values, of_model))
    for_training, more = check_values(TrainConfig, _of(values, of_training))
    return for_model, for_training, problems + more


def with_recipe(model: str, recipe: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values in front of those of a recipe: "own", our defaults, or "paper", the paper's.

    A paper's system is its network alone: no transitions are added. What the recipe "auto" sets
    is no matter of the model alone (`longrec.training.recipe`).

    Raises
    ------
    UsageError
        For an unknown model or recipe, or a model of which no paper's settings are known.
    """
    cls = MODELS[check_model(model)]
    check_choice("recipe", recipe, Recipe)
    if recipe != "paper":
        return dict(values)
    if not cls.paper_settings:
        raise UsageError(
            f"recipe is 'paper', but {model} has no settings of a paper: leave the recipe out"
        )
    return {"transitions": 0, **cls.paper_settings, **values}


def stored_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that a file has, under the names of this version.

    longrec 0.1.0 called the protocol of training "split".
    """
    return {"protocol" if key == "split" else key: value for key, value in values.items()}


def _of(values: Mapping[str, Any], keys: Container[str]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key in keys}


def parse_assignments(texts: list[str]) -> dict[str, str]:
    """["dim=32", …] -> {"dim": "32", …}; a repeated key is an error."""
    values: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"--set takes KEY=VALUE, not {text!r}")
        if key in values:
            raise UsageError(f"--set gives {key!r} twice")
        values[key] = value
    return values
