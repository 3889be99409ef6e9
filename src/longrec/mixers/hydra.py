"""Hydra attention: as many heads as features, so that attention is two products and a sum.

HydraRec (arXiv 2501.01242) takes it from Hydra attention (arXiv 2209.07484). With
phi(x) = x / ||x||_2 over features (elementwise products):

    causal   y_t = phi(q_t) * sum_{u<=t} phi(k_u) * v_u

|y| grows with t, so `normalise` may divide by the number of events ("count") or by the output's
root mean square ("rms") before the residual; "none" is the paper. The form that sees the whole
history is in hydra_bidirectional.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from longrec.mixers.base import EMPTY, Context, State, StreamingMixer, register_mixer
from longrec.ops.head_projections import into_heads
from longrec.ops.hydra import EPS, Normalise, mix_sums
from longrec.ops.short_conv import ShortConvolution


class HydraState(NamedTuple):
    """What Hydra keeps of B histories.

    sum : (B, D) float32, sum of phi(k) * v; count : (B,) float32 events summed;
    convolution : (B, width - 1, D) last inputs.
    """

    sum: Tensor
    count: Tensor  # type: ignore[assignment]  # over tuple.count
    convolution: Tensor


@register_mixer("hydra")
class HydraMixer(StreamingMixer):
    """Causal Hydra attention, O(T D) after the projections.

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

    def __init__(self, dim: int, normalise: Normalise = "rms", convolution: int = 4) -> None:
        super().__init__()
        self.normalise = normalise
        self.convolution = ShortConvolution(dim, convolution)
        self.inputs = nn.Linear(dim, 3 * dim, bias=False)
        self.output = nn.Linear(dim, dim, bias=False)

    def initial_state(self, batch: int) -> HydraState:
        weight = self.output.weight
        return HydraState(
            torch.zeros(batch, weight.shape[0], dtype=sum_type(weight), device=weight.device),
            torch.zeros(batch, dtype=sum_type(weight), device=weight.device),
            self.convolution.initial_state(batch),
        )

    def mix(self, x: Tensor, ctx: Context) -> Tensor:
        # Nobody reads the state, and padding stands at the end: real events never see it.
        return self._mix(x, None, replace(ctx, lengths=None))[0]

    def prefill(self, x: Tensor, state: State, ctx: Context = EMPTY) -> tuple[Tensor, State]:
        past = cast(HydraState, state)
        y, last = self._mix(x, past, ctx)
        new = torch.full_like(past.count, x.shape[1]) if ctx.lengths is None else ctx.lengths
        kept = self.convolution.after(x, past.convolution, ctx.lengths)
        return y, HydraState(last, past.count + new, kept)

    def _mix(self, x: Tensor, past: HydraState | None, ctx: Context) -> tuple[Tensor, Tensor]:
        """Outputs (B, T, D), and the sum after the last event."""
        kind, mask = sum_type(x), ctx.mask(x)
        before = None if past is None else past.convolution
        weight = self.inputs.weight[None]
        parts = into_heads(x, weight, (x.shape[2],) * 3, self.convolution, before)
        q, k, v = (part.flatten(0, 1).to(kind) for part in parts)
        if mask is not None:
            v = v * mask[:, :, None]
        count = torch.arange(1, x.shape[1] + 1, device=x.device, dtype=kind)[None]
        if past is not None:
            count = past.count[:, None] + count
        y, last = mix_sums(q, k, v, None if past is None else past.sum, count, self.normalise)
        return self.output(y.to(x.dtype)), last

    def step(self, x: Tensor, state: State, ctx: Context = EMPTY) -> tuple[Tensor, State]:
        past = cast(HydraState, state)
        h, kept = self.convolution.step(x, past.convolution)
        q, k, v = self.inputs(h).chunk(3, dim=-1)
        new = HydraState(past.sum + phi(k) * v, past.count + 1, kept)
        return self.output(read_sums(q, new.sum, new.count, self.normalise)), new

    def define(self, x: Tensor, times: Tensor | None = None) -> tuple[Tensor, State | None]:
        h = self.convolution.define(x)
        q, k, v = (h @ w.t() for w in self.inputs.weight.chunk(3))
        total, rows = torch.zeros_like(x[0]), []
        for t in range(len(x)):
            total = total + k[t] / k[t].norm().clamp_min(1e-12) * v[t]
            y = q[t] / q[t].norm().clamp_min(1e-12) * total
            if self.normalise == "count":
                y = y / (t + 1)
            elif self.normalise == "rms":
                y = y / (y.square().mean() + 1e-6).sqrt()
            rows.append(y @ self.output.weight.t())
        count = x.new_full((1,), len(x))
        return torch.stack(rows), HydraState(total[None], count, self.convolution.define_state(x))

    @classmethod
    def examples(cls) -> dict[str, Callable[[int], HydraMixer]]:
        return {
            "paper": partial(cls, normalise="none", convolution=0),
            "count": partial(cls, normalise="count", convolution=0),
            "default": cls,
        }


def phi(x: Tensor) -> Tensor:
    """x / ||x||_2 over features."""
    return normalize(x, dim=-1)


def read_sums(q: Tensor, sums: Tensor, count: Tensor, normalise: Normalise) -> Tensor:
    """phi(q) * sums, normalised, in q's type: q and sums (..., D), count (...) events summed."""
    y = phi(q) * sums
    if normalise == "count":
        y = y / count[..., None]
    elif normalise == "rms":
        y = y * (y.square().mean(-1, keepdim=True) + EPS).rsqrt()
    return y.to(q.dtype)


def sum_type(x: Tensor) -> torch.dtype:
    """Sums over a history are never kept in half precision."""
    return torch.promote_types(x.dtype, torch.float32)
