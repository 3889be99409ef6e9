"""The Mamba layer (arXiv 2312.00752): a selective state space behind a short convolution.

    u, z = W_in x_t                                 each E = expand D wide
    u_t  = silu(b + sum_{i<n} w_i * u_{t-i})
    d, b_t, c_t = W u_t                             R, N and N wide, R = D / 16, rounded up
    delta_t = softplus(W_d d + b_d)
    h_t = exp(delta_t A) * h_{t-1} + (delta_t u_t) b_t^T,    A = -exp(A_log), (E, N)
    y_t = W_out ((h_t c_t + skip * u_t) * silu(z_t))

Before the recurrence u and z are cut at `LARGEST` either side: five numbers of such a size multiply
into y, and whatever they are, float32 holds it.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

from longrec.mixers.base import EMPTY, Context, State, StreamingMixer, register_mixer
from longrec.ops.selective_scan import selective_scan, selective_step
from longrec.ops.selective_scan_cuda import available, convolve_by_kernel, scan_by_kernel
from longrec.ops.short_conv import last_inputs
from longrec.ops.sums import sum_type

LARGEST = 6e4
"""Cuts u and z, within what half precision holds; what norms give is never near it."""
SHORTEST, LONGEST = 1e-3, 0.1
"""Between which delta starts, its logarithm evenly spread."""


class MambaState(NamedTuple):
    """What a Mamba layer keeps of B histories.

    sums : (B, E, N), h, in float32 at least; inputs : (B, n - 1, E), last u before the convolution.
    """

    sums: Tensor
    inputs: Tensor


@register_mixer("mamba")
class MambaMixer(StreamingMixer):
    """Mamba's layer: sums that forget as their inputs say, behind a short convolution.

    Parameters
    ----------
    dim : int
        Width D.
    places : int
        N, numbers that each channel keeps.
    convolution : int
        n, events that the short convolution reads.
    expand : int
        Channels E, as a multiple of D.
    """

    linear = True
    cost = "O(T D (D + N))"
    undecayed = ("a_log",)

    def __init__(self, dim: int, places: int = 32, convolution: int = 4, expand: int = 2) -> None:
        super().__init__()
        channels, rank = expand * dim, math.ceil(dim / 16)
        self.widths = (rank, places, places)
        self.inputs = nn.Linear(dim, 2 * channels, bias=False)
        bound = convolution**-0.5
        self.kernel = nn.Parameter(torch.empty(convolution, channels).uniform_(-bound, bound))
        self.kernel_bias = nn.Parameter(torch.empty(channels).uniform_(-bound, bound))
        self.selection = nn.Linear(channels, sum(self.widths), bias=False)
        self.delta = nn.Linear(rank, channels)
        nn.init.uniform_(self.delta.weight, -(rank**-0.5), rank**-0.5)
        start = torch.empty(channels).uniform_(math.log(SHORTEST), math.log(LONGEST)).exp()
        with torch.no_grad():  # so that softplus gives it
            self.delta.bias.copy_(start + (-torch.expm1(-start)).log())
        rates = torch.arange(1.0, places + 1).repeat(channels, 1)
        self.a_log = nn.Parameter(rates.log())
        self.skip = nn.Parameter(torch.ones(channels))
        self.output = nn.Linear(channels, dim, bias=False)

    def initial_state(self, batch: int) -> MambaState:
        weight = self.kernel
        sums = weight.new_zeros(batch, *self.a_log.shape, dtype=sum_type(weight))
        return MambaState(sums, weight.new_zeros(batch, len(weight) - 1, weight.shape[1]))

    def forward(self, x: Tensor, ctx: Context = EMPTY) -> Tensor:
        if not x.shape[1] or not available(x, len(self.kernel)):
            return super().forward(x, ctx)
        u, z = self._inputs(x)
        h = convolve_by_kernel(u, self.kernel, self.kernel_bias)
        delta, b, c = self._selected(h)
        y = scan_by_kernel(h, delta, self._a(delta), b, c)
        return self._outputs(y, h, z)

    def prefill(self, x: Tensor, state: State, ctx: Context = EMPTY) -> tuple[Tensor, State]:
        past = cast(MambaState, state)
        if not x.shape[1]:
            return x, past
        u, z = self._inputs(x)
        h = self._convolved(u, past.inputs)
        delta, b, c = self._selected(h)
        mask = ctx.mask(x)
        if mask is not None:
            delta = delta * mask[..., None]
        kind = past.sums.dtype
        with torch.autocast(x.device.type, enabled=False):
            y, sums = selective_scan(h.to(kind), delta, self._a(delta), b, c, past.sums)
        inputs = last_inputs(u, past.inputs, ctx.lengths).to(past.inputs.dtype)
        return self._outputs(y, h, z), MambaState(sums, inputs)

    def step(self, x: Tensor, state: State, ctx: Context = EMPTY) -> tuple[Tensor, State]:
        past = cast(MambaState, state)
        u, z = self._inputs(x)
        longer = torch.cat([past.inputs, u[:, None]], 1)
        h = silu((longer * self.kernel.flip(0)).sum(1) + self.kernel_bias)
        delta, b, c = self._selected(h)
        y, sums = selective_step(h.to(delta.dtype), delta, self._a(delta), b, c, past.sums)
        return self._outputs(y, h, z), MambaState(sums, longer[:, 1:])

    def _inputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        u, z = self.inputs(x).clamp(-LARGEST, LARGEST).chunk(2, dim=-1)
        return u, z

    def _convolved(self, u: Tensor, past: Tensor) -> Tensor:
        """u (B, T, E) after past (B, n - 1, E), through the convolution and silu."""
        longer, events = torch.cat([past.to(u.dtype), u], 1), u.shape[1]
        kernel = self.kernel.flip(0)
        h = self.kernel_bias + longer[:, :events] * kernel[0]
        for i in range(1, len(kernel)):
            h = h + longer[:, i : i + events] * kernel[i]
        return silu(h)

    def _selected(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """delta, b and c of h (..., E), in the type of sums."""
        low, b, c = self.selection(h).split(self.widths, dim=-1)
        kind = sum_type(h)
        return softplus(self.delta(low).to(kind)), b.to(kind), c.to(kind)

    def _a(self, like: Tensor) -> Tensor:
        return -self.a_log.to(like.dtype).exp()

    def _outputs(self, y: Tensor, h: Tensor, z: Tensor) -> Tensor:
        return cast(Tensor, self.output((y.to(h.dtype) + self.skip * h) * silu(z)))
