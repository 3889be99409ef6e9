"""What a mixer is: the interface, the context it reads, and the registry.

Shape letters: B histories, T events, D width. Batches are padded at the END, so the outputs of a
causal mixer at real events never see padding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn

State = tuple[Any, ...]
"""What a streaming mixer keeps of B histories: a named tuple of tensors, batch first, or of such
tuples."""


@dataclass(frozen=True)
class Context:
    """What a mixer may know of a batch besides its vectors.

    Attributes
    ----------
    lengths : Tensor or None
        (B,) int64, real events per row; None means that all T are real.
    times : Tensor or None
        (B, T) int64, seconds, not falling along a row (a late event counts as a gap of 0).
    types : Tensor or None
        (B, T) int64, kind of each event.
    cu_seqlens : Tensor or None
        (n + 1,) int64, bounds of n histories packed one after the other into a batch of one row;
        `times` and `types` are then packed alike and `lengths` is None.
    """

    lengths: Tensor | None = None
    times: Tensor | None = None
    types: Tensor | None = None
    cu_seqlens: Tensor | None = None

    def mask(self, x: Tensor) -> Tensor | None:
        """(B, T) bool, True at real events of x (B, T, ...); None when nothing is padded."""
        if self.lengths is None:
            return None
        return torch.arange(x.shape[1], device=x.device) < self.lengths[:, None]

    def key_mask(self, x: Tensor) -> Tensor | None:
        """The mask as attention over all events takes it, (B, 1, 1, T): it broadcasts.

        A row without events reads its padding rather than nothing, which would be NaN.
        """
        mask = self.mask(x)
        return None if mask is None else (mask | ~mask.any(1, keepdim=True))[:, None, None]


EMPTY = Context()


class Mixer(nn.Module, ABC):
    """A layer that mixes information along the time axis of histories.

    Subclasses say what they are in class attributes and write `mix` (parallel form on padded
    batches) and `define` (the slow definition, as the paper writes it, that tests hold it to).
    """

    causal: ClassVar[bool]
    linear: ClassVar[bool]
    """Whether cost grows linearly with T."""
    reads_times: bool = False
    """Whether `Context.times` must be given."""

    def forward(self, x: Tensor, ctx: Context = EMPTY) -> Tensor:
        """Mix x (B, T, D) -> (B, T, D); packed batches are padded, mixed and packed again."""
        if ctx.cu_seqlens is None:
            return self.mix(x, ctx)
        return through_padding(self.mix, x, ctx)

    @abstractmethod
    def mix(self, x: Tensor, ctx: Context) -> Tensor:
        """Mix a padded batch x (B, T, D) -> (B, T, D)."""

    @abstractmethod
    def define(self, x: Tensor, times: Tensor | None = None) -> tuple[Tensor, State | None]:
        """Mix one whole history x (T, D) slowly, as the paper defines it: ((T, D), final state)."""

    @classmethod
    @abstractmethod
    def examples(cls) -> Mapping[str, Callable[[int], Mixer]]:
        """Named constructors, each taking the width, that the property tests go through."""


class StreamingMixer(Mixer):
    """A causal mixer whose past fits into a state of fixed size."""

    causal = True

    @abstractmethod
    def initial_state(self, batch: int) -> State:
        """State of `batch` empty histories."""

    @abstractmethod
    def prefill(self, x: Tensor, state: State, ctx: Context = EMPTY) -> tuple[Tensor, State]:
        """Continue B histories by x (B, T, D).

        Returns outputs (B, T, D) and each row's state after its own last real event.
        """

    @abstractmethod
    def step(self, x: Tensor, state: State, ctx: Context = EMPTY) -> tuple[Tensor, State]:
        """Continue B histories by one event x (B, D); `ctx.times` is (B,). -> ((B, D), state)."""

    def mix(self, x: Tensor, ctx: Context) -> Tensor:
        return self.prefill(x, self.initial_state(x.shape[0]), ctx)[0]


def through_padding(
    function: Callable[[Tensor, Context], Tensor], packed: Tensor, ctx: Context
) -> Tensor:
    """Call `function` on a padded batch of packed histories (1, N, ...) and pack what it gives."""
    assert ctx.cu_seqlens is not None
    where, padded = _padding_of(ctx.cu_seqlens)
    y = function(
        _pad(packed, where, padded),
        replace(
            ctx,
            cu_seqlens=None,
            lengths=ctx.cu_seqlens.diff(),
            times=None if ctx.times is None else _pad(ctx.times, where, padded),
            types=None if ctx.types is None else _pad(ctx.types, where, padded),
        ),
    )
    return y.flatten(0, 1)[where][None]


def _padding_of(cu_seqlens: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Flat places of packed events in a padded batch, and that batch's shape (n, longest)."""
    lengths = cu_seqlens.diff()
    longest = int(lengths.max())
    row = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
    place = torch.arange(int(cu_seqlens[-1]), device=lengths.device) - cu_seqlens[row]
    return row * longest + place, (len(lengths), longest)


def _pad(packed: Tensor, where: Tensor, shape: tuple[int, int]) -> Tensor:
    flat = packed.new_zeros((shape[0] * shape[1], *packed.shape[2:]))
    return flat.index_copy(0, where, packed[0]).view(*shape, *packed.shape[2:])


S = TypeVar("S", bound=tuple[Any, ...])


def map_state(function: Callable[[Tensor], Tensor], state: S) -> S:
    """Apply a function to every tensor of a state, however nested."""
    parts = [
        function(part) if isinstance(part, Tensor) else map_state(function, part) for part in state
    ]
    return cast(S, type(state)(*parts) if hasattr(state, "_fields") else tuple(parts))


MIXERS: dict[str, type[Mixer]] = {}
M = TypeVar("M", bound=type[Any])


def register_mixer(name: str) -> Callable[[M], M]:
    """Class decorator: put a mixer under `name` in MIXERS, where the property tests find it."""

    def register(cls: M) -> M:
        if name in MIXERS:
            raise ValueError(f"a mixer named {name!r} is registered already")
        MIXERS[name] = cls
        return cls

    return register


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, T, D) -> (B, H, T, D / H)."""
    split: Tensor = x.unflatten(-1, (heads, -1))
    return split.transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """(B, H, T, d) -> (B, T, H d)."""
    return x.transpose(1, 2).flatten(2)
