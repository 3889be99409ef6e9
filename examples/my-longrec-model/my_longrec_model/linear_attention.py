"""Linear attention (Katharopoulos et al., arXiv 2006.16236) that forgets at rates it learns.

    S_t = a S_{t-1} + phi(k_t) v_t^T        z_t = a z_{t-1} + phi(k_t)
    y_t = phi(q_t)^T S_t / phi(q_t)^T z_t   phi(x) = elu(x / rms(x)) + 1

Each head keeps a share a = exp(-rate) of its past at every event.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import elu, rms_norm

from longrec.checks.definitions import Defined, define
from longrec.mixers import Context, State, StreamingMixer, register_mixer
from longrec.mixers.base import EMPTY


class LinearAttentionState(NamedTuple):
    """What is kept of B histories.

    sums : (B, H, d, d), sums of phi(k) v^T; weights : (B, H, d), sums of phi(k).
    """

    sums: Tensor
    weights: Tensor


@register_mixer("linear-attention")
class LinearAttentionMixer(StreamingMixer):
    """Causal linear attention, O(T D^2).

    Parameters
    ----------
    dim : int
        Width D.
    heads : int
        Heads H, a divisor of D; their half-lives start spread from 4 to 400 events.
    chunk : int
        Events that are read at once; it changes the speed alone.
    """

    linear = True
    cost = "O(T D²)"
    undecayed = ("log_rate",)

    def __init__(self, dim: int, heads: int = 2, chunk: int = 64) -> None:
        super().__init__()
        self.heads, self.chunk = heads, chunk
        self.inputs = nn.Linear(dim, 3 * dim, bias=False)
        self.output = nn.Linear(dim, dim, bias=False)
        half_lives = torch.logspace(math.log10(4), math.log10(400), heads)
        self.log_rate = nn.Parameter((math.log(2) / half_lives).log()[:, None])

    def initial_state(self, batch: int) -> LinearAttentionState:
        weight = self.output.weight
        d = len(weight) // self.heads
        zeros = weight.new_zeros(batch, self.heads, d, dtype=_sum_type(weight))
        return LinearAttentionState(zeros[..., None].expand(-1, -1, -1, d).clone(), zeros)

    def prefill(self, x: Tensor, state: State, ctx: Context = EMPTY) -> tuple[Tensor, State]:
        past = cast(LinearAttentionState, state)
        if not x.shape[1]:
            return x, past
        # (B, T, H d) -> (B, H, T, d)
        q, k, v = (part.transpose(1, 2) for part in self._projected(x))
        rate = self.log_rate.exp().to(q.dtype).expand(len(x), -1, x.shape[1])
        mask = ctx.mask(x)
        if mask is not None:  # padding adds nothing, and lets nothing be forgotten
            k, rate = k * mask[:, None, :, None], rate * mask[:, None]
        outputs = []
        for part in zip(*(t.split(self.chunk, 2) for t in (q, k, v, rate)), strict=True):
            y, past = _read_chunk(*part, past)
            outputs.append(y)
        y = torch.cat(outputs, 2).transpose(1, 2).flatten(2)
        return self.output(y.to(x.dtype)), past

    def step(self, x: Tensor, state: State, ctx: Context = EMPTY) -> tuple[Tensor, State]:
        past = cast(LinearAttentionState, state)
        q, k, v = self._projected(x)  # (B, H, d) each
        keep = (-self.log_rate.exp()).exp().to(q.dtype)
        weights = past.weights * keep + k
        sums = past.sums * keep[..., None] + k[..., None] * v[..., None, :]
        read = (q[..., None] * sums).sum(-2)
        y = read / (q * weights).sum(-1, keepdim=True)
        return self.output(y.flatten(1).to(x.dtype)), LinearAttentionState(sums, weights)

    def _projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (..., D) -> phi(q), phi(k) and v, each (..., H, d) in the type of sums."""
        parts = self.inputs(x).to(_sum_type(x)).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in parts)
        return _phi(q), _phi(k), v


def _phi(x: Tensor) -> Tensor:
    """x (..., d) -> positive features (..., d), bounded whatever x is."""
    return elu(rms_norm(x, x.shape[-1:], eps=1e-6)) + 1


def _read_chunk(
    q: Tensor, k: Tensor, v: Tensor, rate: Tensor, past: LinearAttentionState
) -> tuple[Tensor, LinearAttentionState]:
    """C events at once, from the state before them; all (B, H, C, d) but rate (B, H, C)."""
    age = rate.cumsum(-1)  # of the state before, at each event
    # What event t reads of event u <= t: phi(q_t) phi(k_u), times what is left of u at t.
    left = (age[..., None, :] - age[..., :, None]).tril().exp().tril()
    scores = (q @ k.mT) * left
    old = q * (-age).exp()[..., None]
    read = scores @ v + old @ past.sums
    total = scores.sum(-1) + (old @ past.weights[..., None])[..., 0]
    rest = k * (age - age[..., -1:]).exp()[..., None]  # what is left of each at the end
    kept = (-age[..., -1]).exp()[..., None]
    sums = past.sums * kept[..., None] + rest.mT @ v
    weights = past.weights * kept + rest.sum(-2)
    # A row without events so far has read nothing, with weight 0.
    return read / total.clamp_min(1e-12)[..., None], LinearAttentionState(sums, weights)


def _sum_type(x: Tensor) -> torch.dtype:
    """Sums over a history are kept in float32 at least."""
    return torch.promote_types(x.dtype, torch.float32)


@define.register
def _(mixer: LinearAttentionMixer, x: Tensor, times: Tensor) -> Defined:
    """One history x (T, D), event by event and head by head, as the formulas above say it."""
    q, k, v = (x @ w.t() for w in mixer.inputs.weight.chunk(3))
    rows: list[Tensor] = []
    sums, weights = [], []
    for head in torch.arange(x.shape[1]).chunk(mixer.heads):
        keep = (-mixer.log_rate[len(sums), 0].exp()).exp()
        total, weight = x.new_zeros(len(head), len(head)), x.new_zeros(len(head))
        read = []
        for t in range(len(x)):
            phi_q, phi_k = _phi(q[t, head]), _phi(k[t, head])
            total = keep * total + torch.outer(phi_k, v[t, head])
            weight = keep * weight + phi_k
            read.append(phi_q @ total / (phi_q @ weight))
        rows.append(torch.stack(read))
        sums.append(total)
        weights.append(weight)
    state = LinearAttentionState(torch.stack(sums)[None], torch.stack(weights)[None])
    return torch.cat(rows, 1) @ mixer.output.weight.t(), state
