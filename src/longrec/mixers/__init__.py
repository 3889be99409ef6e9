"""Mixers: one file per mechanism. Importing the package registers every file in it."""

from importlib import import_module
from pkgutil import iter_modules

from longrec.mixers.base import MIXERS, Context, Mixer, State, StreamingMixer, register_mixer

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["MIXERS", "Context", "Mixer", "State", "StreamingMixer", "register_mixer"]
