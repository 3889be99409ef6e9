"""What models there are and what can be set: the registry as plain values."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any, get_args, get_origin, get_type_hints

from longrec.config.parse import check_model
from longrec.config.training import TrainConfig
from longrec.models import MODELS, build_model


def describe_models() -> list[dict[str, Any]]:
    """One entry per model: name, whether it streams, what it is."""
    return [
        {
            "model": name,
            "streaming": model.streaming,
            "causal": build_model(name, model.config_class(), 1).causal,
            "summary": (model.__doc__ or "").strip().splitlines()[0],
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
