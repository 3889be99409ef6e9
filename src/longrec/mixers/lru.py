"""A linear recurrent unit as LRURec (arXiv 2310.02367) has it.

    h_t = lambda * h_{t-1} + gamma * (B x_t)         y_t = Re(C h_t)

with complex B (H x D), C (D x H) and lambda = exp(-exp(nu_log) + i exp(theta_log)), one number per
feature of h, products by element. H is 2 D. |lambda| starts evenly spread over a ring, between
`smallest` and `largest`, with any angle; gamma = exp(gamma_log) starts at sqrt(1 - |lambda|^2), so
that h of long and of short memory is of one size.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from longrec.mixers.base import EMPTY, Context, State, StreamingMixer, register_mixer
from longrec.ops.lru import Pair, lru, lru_step
from longrec.ops.sums import sum_type


class LRUState(NamedTuple):
    """What a linear recurrent unit keeps of B histories.

    real, imaginary : (B, H), h after the last event, in float32 at least.
    """

    real: Tensor
    imaginary: Tensor


@register_mixer("lru")
class LRUMixer(StreamingMixer):
    """A linear recurrent unit: complex sums that turn and fade at rates they learn.

    Parameters
    ----------
    dim : int
        Width D; h has 2 D complex features.
    smallest, largest : float
        The ring in which |lambda| starts.
    """

    linear = True
    cost = "O(T D²)"

    def __init__(self, dim: int, smallest: float = 0.8, largest: float = 0.99) -> None:
        super().__init__()
        hidden = 2 * dim
        size = torch.empty(hidden).uniform_(smallest**2, largest**2)
        nu = -size.log() / 2
        self.nu_log = nn.Parameter(nu.log())
        self.theta_log = nn.Parameter(torch.empty(hidden).uniform_(1e-6, 2 * math.pi).log())
        self.gamma_log = nn.Parameter((1 - size).log() / 2)
        # B and C: their real parts, then their imaginary ones.
        self.inputs = nn.Parameter(torch.empty(2 * hidden, dim))
        self.output = nn.Parameter(torch.empty(dim, 2 * hidden))
        for weight in (self.inputs, self.output):
            nn.init.trunc_normal_(weight, std=0.02, a=-0.04, b=0.04)

    def initial_state(self, batch: int) -> LRUState:
        zeros = torch.zeros(batch, len(self.nu_log), dtype=sum_type(self.nu_log))
        zeros = zeros.to(self.nu_log.device)
        return LRUState(zeros, zeros.clone())

    def forward(self, x: Tensor, ctx: Context = EMPTY) -> Tensor:
        return self._read(*self._mix(x, None)).to(x.dtype) if x.shape[1] else x

    def prefill(self, x: Tensor, state: State, ctx: Context = EMPTY) -> tuple[Tensor, State]:
        past = cast(LRUState, state)
        if not x.shape[1]:
            return x, past
        h = self._mix(x, past)
        if ctx.lengths is None:
            last = [part[..., -1].t() for part in h]
        else:  # after each row's own last event, and the old one where it has none
            end = (ctx.lengths - 1).clamp_min(0)[None, :, None].expand(len(h[0]), -1, 1)
            some = (ctx.lengths > 0)[:, None]
            pairs = zip(h, past, strict=True)
            last = [torch.where(some, part.gather(2, end)[..., 0].t(), old) for part, old in pairs]
        return self._read(*h).to(x.dtype), LRUState(*(part.contiguous() for part in last))

    def step(self, x: Tensor, state: State, ctx: Context = EMPTY) -> tuple[Tensor, State]:
        past = cast(LRUState, state)
        u = (x.to(past.real.dtype) @ self._inputs(past.real).t()).chunk(2, dim=-1)
        h = lru_step((u[0], u[1]), *self._rates(), past)
        y = torch.cat(h, -1) @ self._output(past.real).t()
        return y.to(x.dtype), LRUState(*h)

    def _mix(self, x: Tensor, past: LRUState | None) -> Pair:
        """h of all events, (H, B, T) twice: features first, as the products by feature take it."""
        kind = sum_type(self.nu_log)
        with torch.autocast(x.device.type, enabled=False):
            # One product makes u in that order: (2 H, D) times (D, B T).
            u = self._inputs(x.to(kind)) @ x.to(kind).flatten(0, 1).t()
            real, imaginary = u.unflatten(1, x.shape[:2]).chunk(2)
            before = None if past is None else (past.real.t(), past.imaginary.t())
            return lru((real, imaginary), *self._rates(), before)

    def _read(self, real: Tensor, imaginary: Tensor) -> Tensor:
        """Re(C h) of all events, (B, T, D)."""
        ofs = self._output(real).chunk(2, dim=1)
        with torch.autocast(real.device.type, enabled=False):
            y = real.flatten(1).t() @ ofs[0].t()
            y = torch.addmm(y, imaginary.flatten(1).t(), ofs[1].t())
        return cast(Tensor, y.unflatten(0, real.shape[1:]))

    def _rates(self) -> tuple[Tensor, Tensor]:
        """nu and theta, in float64: powers of lambda multiply what is rounded off them."""
        return self.nu_log.double().exp(), self.theta_log.double().exp()

    def _inputs(self, like: Tensor) -> Tensor:
        """gamma B, in the type of what it multiplies."""
        return (self.inputs * self.gamma_log.exp().repeat(2)[:, None]).to(like.dtype)

    def _output(self, like: Tensor) -> Tensor:
        """C such that Re(C h) is its product with the real and the imaginary parts of h."""
        real, imaginary = self.output.to(like.dtype).chunk(2, dim=1)
        return torch.cat([real, -imaginary], 1)
