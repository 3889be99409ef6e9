"""Models: one file per published system. Importing the package registers every file in it."""

from importlib import import_module
from pkgutil import iter_modules

from longrec.models.common.base import CountingModel, Model
from longrec.models.common.blocks import Block, FeedForwardBlock, ResidualBlock
from longrec.models.common.config import FeedForwardConfig, SequenceConfig
from longrec.models.common.registry import MODELS, build_model, register_model
from longrec.models.common.sequence import ParameterGroup, SequenceModel, UserState

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = [
    "MODELS",
    "Block",
    "CountingModel",
    "FeedForwardBlock",
    "FeedForwardConfig",
    "Model",
    "ParameterGroup",
    "ResidualBlock",
    "SequenceConfig",
    "SequenceModel",
    "UserState",
    "build_model",
    "register_model",
]
