"""Settings at the border: names and values as users give them become checked configs.

A key belongs to the model's config or to TrainConfig; which one is found by its name. Values may
be text, as on a command line. Unknown keys are errors that name the nearest known ones.
The models and their settings are described by the same registry and the same fields.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from longrec.config.training import TrainConfig
from longrec.core.errors import UsageError
from longrec.core.registry import missing_from
from longrec.models.common.config import check_targets
from longrec.models.common.registry import MODELS


def check_model(name: str, module: str | None = None) -> str:
    """The name itself if the registry has it, else a UsageError that lists what there is.

    Parameters
    ----------
    name : of a model.
    module : the module that registered it when a run with it was made, where that is known.
    """
    if name in MODELS:
        return name
    near = difflib.get_close_matches(name, MODELS, 1) if module is None else []
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise UsageError(
        f"there is no model {name!r}.{hint} Models: {', '.join(sorted(MODELS))}."
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
    of_model = {f.name for f in fields(config_class)}
    of_training = {f.name for f in fields(TrainConfig)}
    for key in values:
        if key not in of_model | of_training:
            near = difflib.get_close_matches(key, of_model | of_training, 2)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise UsageError(
                f"model {model!r} has no setting {key!r}.{hint} "
                f"Its settings: {', '.join(sorted(of_model))}. "
                f"Settings of training: {', '.join(sorted(of_training))}."
            )
    config = make_config(config_class, {k: v for k, v in values.items() if k in of_model})
    if "targets" in of_model:
        try:
            check_targets(model, config.targets, MODELS[model].causal)
        except ValueError as error:
            raise UsageError(str(error)) from None
    return config, make_config(TrainConfig, {k: v for k, v in values.items() if k in of_training})


def make_config(cls: type[Any], values: Mapping[str, Any]) -> Any:
    """A config of the class, each value checked; UsageError for one that does not fit its key."""
    hints = get_type_hints(cls)
    checked = {}
    for key, value in values.items():
        try:
            checked[key] = _convert(hints[key], value)
        except ValidationError as error:
            message = error.errors()[0]["msg"]
            raise UsageError(f"{key} is {value!r}: {message[0].lower()}{message[1:]}") from None
        if isinstance(checked[key], float) and math.isnan(checked[key]):
            raise UsageError(f"{key} is nan; it must be a number")  # compares false to any bound
    try:
        return cls(**checked)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _convert(hint: Any, value: Any) -> Any:
    adapter = TypeAdapter(hint)
    try:
        return adapter.validate_python(value)
    except ValidationError:
        # A command line can write None only as a word.
        if isinstance(value, str) and value.lower() in ("none", "null"):
            return adapter.validate_python(None)
        raise


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


def describe_models() -> list[dict[str, Any]]:
    """One entry per model: name, whether it streams, what it is."""
    return [
        {
            "model": name,
            "streaming": model.streaming,
            "causal": model.causal,
            "summary": (model.__doc__ or "").strip().partition("\n")[0],
        }
        for name, model in sorted(MODELS.items())
    ]


def describe_model(name: str) -> dict[str, Any]:
    """A model's summary and its settings with defaults and allowed values."""
    entry = next(row for row in describe_models() if row["model"] == check_model(name))
    return entry | {
        "model_settings": _settings(MODELS[name].config_class),
        "training_settings": _settings(TrainConfig),
    }


def _settings(config: type[Any]) -> list[dict[str, Any]]:
    hints = get_type_hints(config)
    return [
        {
            "key": f.name,
            "default": None if f.default is MISSING else f.default,
            "type": _words(hints[f.name]),
        }
        for f in fields(config)
    ]


def _words(hint: Any) -> str:
    """Literal["a", "b"] -> "a | b"; int | None -> "int | none"."""
    if get_origin(hint) is not None and get_args(hint):
        return " | ".join(
            "none" if a is type(None) else getattr(a, "__name__", str(a)) for a in get_args(hint)
        )
    return str(getattr(hint, "__name__", hint))
