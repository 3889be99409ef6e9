"""What mixers of linear attention share: projections, heads, sums of keys and values, streaming.

A child says what becomes of queries and keys (`maps`); sums are divided by their weights, or by
columns (`ColumnMixer`).
A short convolution may come before the projections: sums know no order but that of the last event.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn

from longrec.mixers.base import EMPTY, Context, State, StreamingMixer
from longrec.mixers.short_conv import ShortConvolution
from longrec.ops.heads import into_heads, out_of_heads
from longrec.ops.normalised import (
    LEAST,
    Sums,
    by_columns,
    by_weights,
    columns_step,
    weights_step,
)
from longrec.ops.sums import LASTING, sum_type


class KernelState(NamedTuple):
    """What is kept of B histories.

    sums : (B, H, F, d) float64, of keys times values; weights : (B, H, F) float64, what divides;
    convolution : (B, width - 1, D) last inputs.
    """

    sums: Tensor
    weights: Tensor
    convolution: Tensor


class KernelMixer(StreamingMixer):
    """Linear attention by heads, a weighted mean of the values so far.

    Parameters
    ----------
    dim : int
        Width D.
    heads : int
        Heads H, a divisor of D.
    convolution : int
        Width of the short convolution before the projections; 0 switches it off.
    features : int or None
        F, what `maps` makes of the d numbers of a head; None is d.
    """

    linear = True
    cost = "O(T D²)"
    least: ClassVar[float] = LEAST
    """What weights are at least where they divide."""

    def __init__(
        self, dim: int, heads: int = 2, convolution: int = 4, features: int | None = None
    ) -> None:
        super().__init__()
        self.heads = heads
        self.features = dim // heads if features is None else features
        self.convolution = ShortConvolution(dim, convolution)
        self.inputs = nn.Linear(dim, 3 * dim, bias=False)
        self.output = nn.Linear(dim, dim, bias=False)

    @abstractmethod
    def maps(self, q: Tensor, k: Tensor, position: Tensor | None) -> tuple[Tensor, Tensor]:
        """q, k (H, B, T, d), of one event (B, H, d), -> their features, F in place of d.

        Finite whatever they are. position is the number of events before each, (B, T) or of one
        event (B, 1), where a child gives it.
        """

    def attend(self, q: Tensor, k: Tensor, v: Tensor, past: Sums) -> tuple[Tensor, Sums]:
        """Features and values (H, B, T, ...) after sums -> y (H, B, T, d), and the new sums."""
        return by_weights(q, k, v, past, self.least)

    def attend_step(self, q: Tensor, k: Tensor, v: Tensor, past: Sums) -> tuple[Tensor, Sums]:
        """The same for one event, all (B, H, ...)."""
        return weights_step(q, k, v, past, self.least)

    def initial_state(self, batch: int) -> KernelState:
        weight = self.output.weight
        d = weight.shape[0] // self.heads
        sums = weight.new_zeros(batch, self.heads, self.features, d, dtype=LASTING)
        return KernelState(sums, sums.sum(-1), self.convolution.initial_state(batch))

    def forward(self, x: Tensor, ctx: Context = EMPTY) -> Tensor:
        # Nobody reads the state, and padding stands at the end: real events never see it.
        return super().forward(x, replace(ctx, lengths=None))

    def prefill(self, x: Tensor, state: State, ctx: Context = EMPTY) -> tuple[Tensor, State]:
        if not x.shape[1]:
            return x, state
        return self.mix(x, cast(KernelState, state), ctx)

    def step(self, x: Tensor, state: State, ctx: Context = EMPTY) -> tuple[Tensor, State]:
        return self.mix_step(x, cast(KernelState, state))

    def mix(
        self, x: Tensor, past: KernelState, ctx: Context, position: Tensor | None = None
    ) -> tuple[Tensor, KernelState]:
        """x (B, T, D) that follows a state -> (B, T, D), and the state after it."""
        kind, mask = sum_type(x), ctx.mask(x)
        weight = self.inputs.weight.unflatten(0, (3, self.heads, -1)).transpose(0, 1).flatten(1, 2)
        widths = (x.shape[2] // self.heads,) * 3
        q, k, v = into_heads(x, weight, widths, self.convolution.kernel, past.convolution)
        with torch.autocast(x.device.type, enabled=False):
            q, k = self.maps(q.to(kind), k.to(kind), position)
            if mask is not None:
                k = k * mask[:, :, None]
            before = past.sums.transpose(0, 1), past.weights.transpose(0, 1)
            y, (sums, weights) = self.attend(q, k, v.to(kind), before)
        inputs = self.convolution.state_after(x, past.convolution, ctx.lengths)
        new = KernelState(sums.transpose(0, 1), weights.transpose(0, 1), inputs)
        return out_of_heads(y.to(x.dtype), self.output.weight), new

    def mix_step(
        self, x: Tensor, past: KernelState, position: Tensor | None = None
    ) -> tuple[Tensor, KernelState]:
        """The same for one event x (B, D)."""
        h, inputs = self.convolution.step(x, past.convolution)
        parts = self.inputs(h).to(sum_type(x)).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in parts)
        q, k = self.maps(q, k, position)
        y, sums = self.attend_step(q, k, v, (past.sums, past.weights))
        return self.output(y.flatten(1).to(x.dtype)), KernelState(*sums, inputs)


class ColumnMixer(KernelMixer):
    """Linear attention by heads, each feature of the keys normalised over the events so far.

    Parameters
    ----------
    dim, heads, convolution
        As in KernelMixer.
    """

    power: ClassVar[int]
    """Of the norm."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, past: Sums) -> tuple[Tensor, Sums]:
        return by_columns(q, k, v, past, self.power)

    def attend_step(self, q: Tensor, k: Tensor, v: Tensor, past: Sums) -> tuple[Tensor, Sums]:
        return columns_step(q, k, v, past, self.power)
