"""Hydra attention: as many heads as features, so that attention is two products and a sum.

HydraRec (arXiv 2501.01242) takes it from Hydra attention (arXiv 2209.07484). With
phi(x) = x / ||x||_2 over features (elementwise products):

    causal          y_t = phi(q_t) * sum_{u<=t} phi(k_u) * v_u
    bidirectional   y_t = phi(q_t) * sum_u m_u phi(k_u) * v_u          m masks padding

|y| grows with the number of events summed, so `normalise` may divide by it ("count") or by the
output's root mean square ("rms") before the residual; "none" is the paper.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from longrec.mixers.base import EMPTY, Context, Mixer, State, StreamingMixer, register_mixer
from longrec.mixers.short_conv import ShortConvolution
from longrec.ops.heads import into_heads
from longrec.ops.hydra import Normalise, causal_hydra, phi, read_sums
from longrec.ops.sums import LASTING, sum_type


class HydraState(NamedTuple):
    """What Hydra keeps of B histories.

    sum : (B, D) float64, sum of phi(k) * v; count : (B,) float64 events summed;
    convolution : (B, width - 1, D) last inputs.
    """

    sum: Tensor
    count: Tensor  # type: ignore[assignment]  # over tuple.count
    convolution: Tensor


@register_mixer("hydra")
class HydraMixer(StreamingMixer):
    """HydraRec's attention, causal.

    Parameters
    ----------
    dim : int
        Width D.
    normalise : {"none", "count", "rms"}
        What is done against the growth of |y|.
    convolution : int
        Width of the short convolution before the projections; 0 switches it off.
    """

    linear = True
    cost = "O(T D²)"
    state_version = 2  # 1 had the sum and the count in float32

    def __init__(self, dim: int, normalise: Normalise = "rms", convolution: int = 4) -> None:
        super().__init__()
        self.normalise = normalise
        self.convolution = ShortConvolution(dim, convolution)
        self.inputs = nn.Linear(dim, 3 * dim, bias=False)
        self.output = nn.Linear(dim, dim, bias=False)

    def initial_state(self, batch: int) -> HydraState:
        weight = self.output.weight
        return HydraState(
            torch.zeros(batch, weight.shape[0], dtype=LASTING, device=weight.device),
            torch.zeros(batch, dtype=LASTING, device=weight.device),
            self.convolution.initial_state(batch),
        )

    def forward(self, x: Tensor, ctx: Context = EMPTY) -> Tensor:
        if not x.shape[1]:
            return x
        # Nobody reads the state, and padding stands at the end: real events never see it.
        return self._mix(x, None, replace(ctx, lengths=None))[0]

    def prefill(self, x: Tensor, state: State, ctx: Context = EMPTY) -> tuple[Tensor, State]:
        if not x.shape[1]:
            return x, state
        past = cast(HydraState, state)
        y, last = self._mix(x, past, ctx)
        new = torch.full_like(past.count, x.shape[1]) if ctx.lengths is None else ctx.lengths
        inputs = self.convolution.state_after(x, past.convolution, ctx.lengths)
        return y, HydraState(last, past.count + new, inputs)

    def _mix(self, x: Tensor, past: HydraState | None, ctx: Context) -> tuple[Tensor, Tensor]:
        """Outputs (B, T, D), and the sum after the last event."""
        kind, mask = sum_type(x), ctx.mask(x)
        before = None if past is None else past.convolution
        weight = self.inputs.weight[None]
        parts = into_heads(x, weight, (x.shape[2],) * 3, self.convolution.kernel, before)
        q, k, v = (part.flatten(0, 1).to(kind) for part in parts)
        if mask is not None:
            v = v * mask[:, :, None]
        count = torch.arange(1, x.shape[1] + 1, device=x.device, dtype=kind)[None]
        if past is not None:
            count = past.count[:, None] + count
        past_sum = None if past is None else past.sum
        y, last = causal_hydra(q, k, v, past_sum, count, self.normalise)
        return self.output(y.to(x.dtype)), last

    def step(self, x: Tensor, state: State, ctx: Context = EMPTY) -> tuple[Tensor, State]:
        past = cast(HydraState, state)
        h, inputs = self.convolution.step(x, past.convolution)
        q, k, v = self.inputs(h).to(sum_type(x)).chunk(3, dim=-1)
        new = HydraState(past.sum + phi(k) * v, past.count + 1, inputs)
        y = read_sums(q, new.sum, new.count, self.normalise)
        return self.output(y.to(x.dtype)), new


@register_mixer("hydra-bidirectional")
class BidirectionalHydraMixer(Mixer):
    """HydraRec's attention as published, bidirectional.

    The sum is one vector per history, and events differ only by phi(q_t).

    Parameters
    ----------
    dim, normalise
        As in HydraMixer.
    """

    causal = False
    linear = True
    cost = "O(T D²)"

    def __init__(self, dim: int, normalise: Normalise = "rms") -> None:
        super().__init__()
        self.normalise = normalise
        self.inputs = nn.Linear(dim, 3 * dim, bias=False)
        self.output = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, ctx: Context = EMPTY) -> Tensor:
        q, k, v = self.inputs(x).to(sum_type(x)).chunk(3, dim=-1)
        pairs = phi(k) * v
        count, mask = pairs.new_full((1, 1), x.shape[1]), ctx.mask(x)
        if mask is not None:
            pairs = pairs.masked_fill(~mask[:, :, None], 0.0)
            count = mask.sum(1, keepdim=True).clamp_min(1).to(pairs.dtype)
        y = read_sums(q, pairs.sum(1, keepdim=True), count, self.normalise)
        return cast(Tensor, self.output(y.to(x.dtype)))
