"""Gated DeltaNet (arXiv 2412.06464): linear attention that replaces instead of only adding.

    q, k, v = silu(conv(x W))        q, k of unit norm per head
    a_t = exp(-exp(A) softplus(x_t w_a + c))        b_t = sigmoid(x_t w_b)        one per head
    S_t = a_t (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T        o_t = S_t^T q_t
    y   = W_o (rmsnorm(o) * silu(x W_g))        the norm over each head's features

conv is a causal depthwise convolution over the events. The gate a forgets all at once, the rule
with b overwrites what is kept under one key, so that the newest of two values for a key counts.

Where this differs from the paper: it has keys of .75 D and values of 1.5 D numbers, here both have
D. The released layer divides q by the square root of its width, which the norm undoes. A and c are
spread evenly over the ranges that they are drawn from there: of two heads a draw could give both
the same reach.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, rms_norm, silu, softplus

from longrec.mixers.base import EMPTY, Context, State, StreamingMixer, register_mixer
from longrec.mixers.short_conv import ShortConvolution
from longrec.ops.gated_delta import causal_gated_delta, gated_delta_step
from longrec.ops.heads import join_heads, split_heads
from longrec.ops.sums import sum_type

RATES, STEPS = 16.0, (1e-3, 1e-1)
"""Ranges over which exp(A), up to the first, and softplus(c) start spread."""
EPS = 1e-5
"""Added to the mean square of o."""


class GatedDeltaState(NamedTuple):
    """What the gated delta rule keeps of B histories.

    memory : (B, H, d, d), S, float32 at least; convolution : (B, width - 1, 3 D), the last inputs
    of the convolution.
    """

    memory: Tensor
    convolution: Tensor


@register_mixer("gated-delta")
class GatedDeltaMixer(StreamingMixer):
    """Gated delta rule: each event overwrites what is kept under its key, and all is forgotten.

    Parameters
    ----------
    dim : int
        Width D.
    heads : int
        Heads H, a divisor of D.
    convolution : int
        Width of the convolution of q, k and v; 0 switches it off.
    """

    linear = True
    cost = "O(T D²)"

    def __init__(self, dim: int, heads: int = 2, convolution: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.inputs = nn.Linear(dim, 3 * dim, bias=False)
        self.convolution = ShortConvolution(3 * dim, convolution)
        self.rates = nn.Linear(dim, 2 * heads, bias=False)
        middle = (torch.arange(heads) + 0.5) / heads
        low, high = (math.log(step) for step in STEPS)
        self.log_rate = nn.Parameter((RATES * middle).log())
        self.rate_bias = nn.Parameter((low + (high - low) * middle).exp().expm1().log())
        self.gate = nn.Linear(dim, dim, bias=False)
        self.gain = nn.Parameter(torch.ones(dim // heads))
        self.output = nn.Linear(dim, dim, bias=False)

    def initial_state(self, batch: int) -> GatedDeltaState:
        weight = self.output.weight
        d = len(weight) // self.heads
        memory = weight.new_zeros(batch, self.heads, d, d, dtype=sum_type(weight))
        return GatedDeltaState(memory, self.convolution.initial_state(batch))

    def forward(self, x: Tensor, ctx: Context = EMPTY) -> Tensor:
        if not x.shape[1]:
            return x
        # Nobody reads the state, and padding stands at the end: real events never see it.
        return self._mix(self.inputs(x), x, None, replace(ctx, lengths=None))[0]

    def prefill(self, x: Tensor, state: State, ctx: Context = EMPTY) -> tuple[Tensor, State]:
        if not x.shape[1]:
            return x, state
        past, projected = cast(GatedDeltaState, state), self.inputs(x)
        y, memory = self._mix(projected, x, past, ctx)
        last = self.convolution.state_after(projected, past.convolution, ctx.lengths)
        return y, GatedDeltaState(memory, last)

    def step(self, x: Tensor, state: State, ctx: Context = EMPTY) -> tuple[Tensor, State]:
        past = cast(GatedDeltaState, state)
        mixed, last = self.convolution.step(self.inputs(x), past.convolution)
        parts = silu(mixed).to(sum_type(x)).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in parts)
        o, memory = gated_delta_step(
            normalize(q, dim=-1), normalize(k, dim=-1), v, *self._gates(x), past.memory
        )
        return self._read(self._normed(o).flatten(1), x), GatedDeltaState(memory, last)

    def _mix(
        self, projected: Tensor, x: Tensor, past: GatedDeltaState | None, ctx: Context
    ) -> tuple[Tensor, Tensor]:
        """Outputs (B, T, D), and the memory after the last event."""
        before = None if past is None else past.convolution
        mixed = silu(self.convolution(projected, before)).to(sum_type(x))
        q, k, v = (split_heads(part, self.heads) for part in mixed.chunk(3, -1))
        beta, log_decay = (part.transpose(1, 2) for part in self._gates(x))
        memory = None if past is None else past.memory
        o, last = causal_gated_delta(
            *(normalize(q, dim=-1), normalize(k, dim=-1), v, beta, log_decay),
            *(memory, ctx.mask(x)),
        )
        return self._read(join_heads(self._normed(o)), x), last

    def _gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """b and log a of events x (..., D), (..., H) each, in the type of sums."""
        forget, replace_ = self.rates(x).to(sum_type(x)).chunk(2, -1)
        log_decay = -self.log_rate.exp() * softplus(forget + self.rate_bias)
        return replace_.sigmoid(), log_decay

    def _normed(self, o: Tensor) -> Tensor:
        """o (..., d) of a head, divided by its root mean square."""
        return rms_norm(o, o.shape[-1:], self.gain.to(o.dtype), EPS)

    def _read(self, o: Tensor, x: Tensor) -> Tensor:
        """o (..., D) of the heads, gated by events x (..., D) -> y (..., D)."""
        return cast(Tensor, self.output(o.to(x.dtype) * silu(self.gate(x))))
