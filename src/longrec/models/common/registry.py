"""The registry of models: each under its name, checked when it is put there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar, cast, get_args

from torch import Tensor

from longrec.config.border import is_frozen
from longrec.config.training import TrainConfig
from longrec.core.errors import UsageError
from longrec.core.format import listed
from longrec.core.registry import Registry
from longrec.models.common.base import Model, Streaming
from longrec.models.common.config import SequenceConfig
from longrec.models.common.sequence import SequenceModel

MODELS: Registry[type[Model]] = Registry("model")
M = TypeVar("M", bound=type[Model])


def register_model(name: str) -> Callable[[M], M]:
    """Class decorator: put a model under `name` in MODELS, where every tool finds it.

    Raises
    ------
    ValueError
        When the name is taken, or a key of the model's config is one of training's, too.
    TypeError
        When the class does not say what a model must say.
    """

    def register(cls: M) -> M:
        _check_class(name, cls)
        MODELS.add(name, cls)
        cls.name = name
        return cls

    return register


def _check_class(name: str, cls: type[Model]) -> None:
    config_class: Any = getattr(cls, "config_class", None)
    if not is_frozen(config_class):
        raise TypeError(f"{cls.__name__}.config_class must be a frozen dataclass")
    if issubclass(cls, SequenceModel) and not issubclass(config_class, SequenceConfig):
        raise TypeError(
            f"{cls.__name__} is a SequenceModel: its config_class, {config_class.__name__}, must "
            "be a subclass of SequenceConfig, whose settings SequenceModel reads"
        )
    shared = config_keys(config_class).keys() & config_keys(TrainConfig).keys()
    if shared:
        raise ValueError(
            f"{config_class.__name__} of model {name!r} has settings that training has, too: "
            f"{listed(sorted(shared))}. One value would set both: rename them"
        )
    if getattr(cls, "streaming", None) not in get_args(Streaming):
        raise TypeError(f"{cls.__name__}.streaming must be one of {', '.join(get_args(Streaming))}")
    if issubclass(cls, SequenceModel) and cls.score is not SequenceModel.score:
        raise TypeError(
            f"{cls.__name__} overrides score, which losses and indexes do not call alone: override "
            "user_vectors, item_vectors and item_bias, or score_pairs for a target-aware model"
        )


def config_keys(config_class: type[Any]) -> dict[str, Any]:
    """Keys of a config with their defaults."""
    return {f.name: f.default for f in fields(config_class)}


def build_model(name: str, config: Any, n_items: int) -> Model:
    """Make a model of the registry: its class takes (config, n_items)."""
    return cast(Callable[[Any, int], Model], MODELS[name])(config, n_items)


def load_grown(model: Model, weights: Mapping[str, Tensor]) -> None:
    """Load weights of a smaller catalog, in which the tables by item have been given more rows.

    Raises
    ------
    UsageError
        When another table has a row per item: `item_tables` does not name it, so it has not grown.
    """
    wrong = [
        name
        for name, tensor in model.state_dict().items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if wrong:
        raise UsageError(
            f"{model.name}: {listed(wrong)} has another size with more items and is not grown: "
            f"name it in item_tables() of {type(model).__name__}, with the other tables with a row "
            "per item"
        )
    model.load_state_dict(weights)
