"""What a mixer is: the interface, the context it reads, and the registry.

Shape letters: B histories, T events, D width. Batches are padded at the END, so the outputs of a
causal mixer at real events never see padding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn

from longrec.core.registry import Registry

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
    columns : mapping or None
        Further columns of the events by name, (B, T) each, those that the model reads: of text
        int64 codes from 0, and -1 where an event has no word or one that training did not know;
        of numbers float32, and 0 where an event has none. A mask has no value of its own.
    before : Tensor or None
        (B,) int64, time of the event before the first of these, the smallest int64 where there was
        none; None: these are the first.
    """

    lengths: Tensor | None = None
    times: Tensor | None = None
    columns: Mapping[str, Tensor] | None = None
    before: Tensor | None = None

    @property
    def types(self) -> Tensor | None:
        """(B, T) int64, type of each event: the column "type"."""
        return None if self.columns is None else self.columns.get("type")

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

    Subclasses say what they are in class attributes and write `forward`, the parallel form on
    padded batches. The property tests find a mixer by its registration.
    """

    causal: ClassVar[bool]
    linear: ClassVar[bool]
    """Whether cost grows linearly with T."""
    cost: ClassVar[str] = ""
    """Operations on a history, "O(T D²)" for instance: T events, D width, and its own letters."""
    max_length: int | None = None
    """Most events of a history that it can read: more are a ValueError. None for no limit."""
    reads_times: bool = False
    """Whether `Context.times` must be given."""
    reads_columns: tuple[str, ...] = ()
    """Further columns of events that `Context.columns` must have, "type" for instance."""
    undecayed: ClassVar[tuple[str, ...]] = ()
    """Names of own parameters that weight decay leaves alone, besides all vectors."""

    @abstractmethod
    def forward(self, x: Tensor, ctx: Context = EMPTY) -> Tensor:
        """Mix x (B, T, D) -> (B, T, D), or another width that the block around it expects."""


class StreamingMixer(Mixer):
    """A causal mixer whose past fits into a state of fixed size."""

    causal = True
    state_version: int = 1
    """Of the state's tensors. Another number makes another digest, so that what was stored in an
    older form is never read as this one: a store asks for a rebuild of its records by name."""

    @abstractmethod
    def initial_state(self, batch: int) -> State:
        """State of `batch` empty histories."""

    @abstractmethod
    def prefill(self, x: Tensor, state: State, ctx: Context = EMPTY) -> tuple[Tensor, State]:
        """Continue B histories by x (B, T, D).

        Returns outputs (B, T, D) and each row's state after its own last real event. T may be 0:
        then the state is the one that was given.
        """

    @abstractmethod
    def step(self, x: Tensor, state: State, ctx: Context = EMPTY) -> tuple[Tensor, State]:
        """Continue B histories by one event x (B, D); `ctx.times` is (B,). -> ((B, D), state)."""

    def forward(self, x: Tensor, ctx: Context = EMPTY) -> Tensor:
        """Mix x (B, T, D) -> (B, T, D), from an empty state."""
        return self.prefill(x, self.initial_state(x.shape[0]), ctx)[0]


S = TypeVar("S", bound=tuple[Any, ...])


def map_state(function: Callable[[Tensor], Tensor], state: S) -> S:
    """Apply a function to every tensor of a state, however nested."""
    parts = [
        function(part) if isinstance(part, Tensor) else map_state(function, part) for part in state
    ]
    return cast(S, type(state)(*parts) if hasattr(state, "_fields") else tuple(parts))


MIXERS: Registry[type[Mixer]] = Registry("mixer")
M = TypeVar("M", bound=type[Any])


def register_mixer(name: str) -> Callable[[M], M]:
    """Class decorator: put a mixer under `name` in MIXERS, where the property tests find it."""

    def register(cls: M) -> M:
        MIXERS.add(name, cls)
        return cls

    return register
