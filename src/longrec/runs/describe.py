"""What models and mixers say of themselves: for `longrec models`, and for every table in the docs.

Each fact is declared once: in class attributes, in the fields of a config, or in a state, whose
bytes are counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from longrec.config.border import describe_settings
from longrec.config.training import TrainConfig
from longrec.core.errors import first_line
from longrec.mixers import MIXERS, Mixer, StreamingMixer
from longrec.mixers.base import map_state
from longrec.models import MODELS, CountingModel, Model, SequenceModel, build_model
from longrec.models.common.settings import check_model
from longrec.serving.records.engine import Clock
from longrec.serving.records.record import RecordLayout, flat

WIDTH = 64
"""At which a mixer's state is counted: the default of models."""


def describe_models() -> list[dict[str, Any]]:
    """One entry per model, at default settings.

    Returns
    -------
    list of dict
        Plain values: "model", "summary", "paper", "causal", "streaming", "streams_as"; of an
        example with default settings "linear", "cost", "mixers", "targets", "max_length" and
        "record_bytes", what a stream keeps of a user (None where it keeps no state); "plugin", the
        module that registers it (None of ours); "problem", why no example could be made, or None.
    """
    return [_describe(name) for name in sorted(MODELS)]


def describe_model(name: str) -> dict[str, Any]:
    """The entry of a model, with its settings and training's, as `describe_settings` gives them.

    "paper_settings" are those that the recipe "paper" sets, by key.
    """
    return _describe(check_model(name)) | {
        "paper_settings": dict(MODELS[name].paper_settings),
        "model_settings": describe_settings(MODELS[name].config_class),
        "training_settings": describe_settings(TrainConfig),
    }


def describe_mixers() -> list[dict[str, Any]]:
    """One entry per mixer: "mixer", "summary", "causal", "linear", "cost", "state_bytes".

    The last is of a mixer `WIDTH` wide, None where it has no state of fixed size.
    """
    return [
        {
            "mixer": name,
            "summary": _summary(cls),
            "causal": cls.causal,
            "linear": cls.linear,
            "cost": cls.cost,
            "state_bytes": _state_bytes(cls),
        }
        for name, cls in MIXERS.items()
    ]


def values_of(setting: Mapping[str, Any]) -> str:
    """What a setting may be, in words: "int, at least 1", "next | masked | last"."""
    bounds = "" if setting["range"] is None else f", {setting['range']}"
    return f"{setting['type']}{bounds}"


def _describe(name: str) -> dict[str, Any]:
    cls = MODELS[name]
    try:
        of_example, problem = _example_facts(build_model(name, cls.config_class(), 1)), None
    except Exception as error:  # of somebody's model, which must not hide all others
        of_example, problem = {}, f"{type(error).__name__}: {first_line(error)}"
    unknown = dict.fromkeys(("linear", "cost", "mixers", "targets", "max_length", "record_bytes"))
    return {
        "model": name,
        "summary": _summary(cls),
        "paper": cls.paper or None,
        "causal": cls.causal,
        "streaming": cls.streaming,
        "streams_as": cls.streams_as,
        **unknown,
        **of_example,
        "plugin": MODELS.plugin(name),
        "problem": problem,
    }


def _example_facts(model: Model) -> dict[str, Any]:
    found: dict[str, Any] = {
        "linear": model.linear,
        "cost": model.cost,
        "max_length": model.max_length,
        "mixers": [],
        "targets": None,
    }
    if isinstance(model, SequenceModel):
        names = {cls: name for name, cls in MIXERS.items()}
        kinds = dict.fromkeys(type(mixer) for mixer in model.mixers)
        found["mixers"] = [names.get(kind, kind.__name__) for kind in kinds]
        found["targets"] = model.targets
    found["record_bytes"] = record_bytes(model)
    return found


def record_bytes(model: Model) -> int | None:
    """Bytes of a user's record, whatever the history's length; None where there is no state.

    The model may have shapes alone (torch's device "meta").
    """
    state: Any
    if isinstance(model, CountingModel):
        state, reach = Clock(torch.zeros(1, dtype=torch.int64, device="cpu")), model.reach
    elif isinstance(model, SequenceModel) and model.streaming == "exact":
        state, reach = model.initial_state(1), 0
    else:
        return None
    here = map_state(lambda part: torch.zeros_like(part, device="cpu"), state)
    return RecordLayout(here, "0" * 64, reach).size


def _state_bytes(cls: type[Mixer]) -> int | None:
    if not issubclass(cls, StreamingMixer):
        return None
    make: Any = cls
    try:
        state = make(WIDTH).initial_state(1)
    except Exception:  # somebody's, which takes more than a width
        return None
    return sum(tensor.nbytes for tensor in flat(state))


def _summary(cls: type[Any]) -> str:
    """The first line of a class's docstring."""
    return (cls.__doc__ or "").strip().partition("\n")[0]
