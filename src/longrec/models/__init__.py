"""Models: one file per published system. Importing the package registers every file in it."""

from importlib import import_module
from pkgutil import iter_modules

from longrec.models.common.base import (
    MODELS,
    CountingModel,
    Model,
    SequenceModel,
    UserState,
    build_model,
    register_model,
)

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = [
    "MODELS",
    "CountingModel",
    "Model",
    "SequenceModel",
    "UserState",
    "build_model",
    "register_model",
]
