"""The mixers and models that are measured: one shape for all, and peers that only stand here.

"softmax-naive" and "sasrec-naive" store the scores of all pairs of events, as attention did before
it was fused. "free" is the blocks that all models share with a mixer that returns its input: the
time of all the rest, which no mixer can get below.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import cache
from inspect import signature
from typing import Any, cast

import torch
from torch import Tensor

from longrec.mixers import MIXERS, Context, Mixer, State, StreamingMixer
from longrec.mixers.base import EMPTY, map_state
from longrec.mixers.softmax import SoftmaxMixer
from longrec.models import MODELS, SequenceModel, build_model
from longrec.models.common.blocks import Block
from longrec.ops.heads import join_heads, split_heads

Task = dict[str, Any]
"""What to measure: "kind", "name", "length", "pass", "batch", and "slots" or "catalog"."""

DIM = 64
SHAPE = {"heads": 2, "experts": 16}
MODEL_SHAPE = {"dim": DIM, "layers": 2, "ffn_dim": 256, "dropout": 0.0, **SHAPE}
ITEMS = 3_400
"""Of the catalog of measured models: an encoder reads few rows of its table."""

FUSED, NAIVE = "softmax", "softmax-naive"
SASREC, SASREC_NAIVE, FREE = "sasrec", "sasrec-naive", "free"
PEERS = {"mixer": FUSED, "model": SASREC}
"""What each kind is compared with: fused attention, alone and in a whole model."""


class NaiveSoftmaxMixer(SoftmaxMixer):
    """Causal softmax attention that stores its T x T scores."""

    def forward(self, x: Tensor, ctx: Context = EMPTY) -> Tensor:
        q, k, v = (split_heads(part, self.heads) for part in self.inputs(x).chunk(3, dim=-1))
        scores = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        y = join_heads(scores.masked_fill(later, -torch.inf).softmax(-1) @ v)
        return cast(Tensor, self.output(y))


class FreeMixer(StreamingMixer):
    """Returns its input."""

    linear = True

    def initial_state(self, batch: int) -> State:
        return ()

    def prefill(self, x: Tensor, state: State, ctx: Context = EMPTY) -> tuple[Tensor, State]:
        return x, state

    def step(self, x: Tensor, state: State, ctx: Context = EMPTY) -> tuple[Tensor, State]:
        return x, state


def mixer_names() -> list[str]:
    """Of the registry, and the naive form."""
    return [*MIXERS, NAIVE]


def model_names() -> list[str]:
    """Models of the registry that are trained by gradient, the naive form and the free one."""
    known = [name for name, cls in MODELS.items() if issubclass(cls, SequenceModel)]
    return [*known, SASREC_NAIVE, FREE]


def has_step(kind: str, name: str) -> bool:
    """Whether a mixer or model goes on from a state of fixed size."""
    if kind == "mixer":
        return name in MIXERS and issubclass(MIXERS[name], StreamingMixer)
    return name == FREE or (name in MODELS and MODELS[name].streaming == "exact")


@cache
def state_bytes(kind: str, name: str) -> int | None:
    """What a mixer or model carries on of one history; None where it has no step."""
    if not has_step(kind, name):
        return None
    make = make_mixer if kind == "mixer" else make_model
    module = cast(StreamingMixer | SequenceModel, make(name, 1))
    found = [0]
    map_state(lambda part: found.append(part.nbytes) or part, module.initial_state(1))  # type: ignore[func-returns-value]
    return sum(found)


def expected_growth(kind: str, name: str) -> tuple[int, int]:
    """Powers of the length with which time and memory are expected to grow."""
    mixers: list[Any] = []  # a memory bank or a loss has none: linear
    if kind == "mixer":
        mixers = [_mixer_class(name)]
    elif kind == "model":
        mixers = [cast(Block, block).mixer for block in make_model(name, 1).blocks]
    linear = all(mixer.linear for mixer in mixers)
    return 1 if linear else 2, 2 if name in (NAIVE, SASREC_NAIVE) else 1


def make_mixer(name: str, longest: int = 1) -> Mixer:
    """A mixer of width 64 with 2 heads and 16 experts, as far as it has them.

    One that can read so many events alone is made for `longest`.
    """
    cls = _mixer_class(name)
    # Of its constructor, and of those that it may hand parameters on to.
    constructors = [vars(base)["__init__"] for base in cls.__mro__ if "__init__" in vars(base)]
    known = {name for one in constructors for name in signature(one).parameters}
    shape = {key: value for key, value in {**SHAPE, "max_length": longest}.items() if key in known}
    return cast(Callable[..., Mixer], cls)(DIM, **shape)


def _mixer_class(name: str) -> type[Mixer]:
    return NaiveSoftmaxMixer if name == NAIVE else MIXERS[name]


def make_model(name: str, longest: int, **settings: Any) -> SequenceModel:
    """A model of width 64 and 2 layers, without dropout, that reads `longest` events at least."""
    known = {SASREC_NAIVE: SASREC, FREE: "hydrarec"}.get(name, name)
    config_class = MODELS[known].config_class
    keys = {field.name for field in fields(config_class)}
    shape = MODEL_SHAPE | {"max_length": longest} | settings
    config = config_class(**{key: value for key, value in shape.items() if key in keys})
    model = cast(SequenceModel, build_model(known, config, ITEMS))
    if known != name:
        for block in model.blocks:
            cast(Block, block).mixer = FreeMixer() if name == FREE else make_mixer(NAIVE)
    return model
