"""Gated linear mixers as their papers write them: slowly, one whole history at a time."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from longrec.checks.definitions import EXAMPLES, Defined, define
from longrec.mixers.fuxi_linear import EPS as NORM_EPS
from longrec.mixers.fuxi_linear import FuXiLinearMixer, FuXiLinearState
from longrec.mixers.gated_delta import EPS, GatedDeltaMixer, GatedDeltaState
from longrec.mixers.gated_linear import EPS as MEAN_EPS
from longrec.mixers.gated_linear import GatedLinearMixer, GatedLinearState
from longrec.ops.fuxi_linear import naive_time, sinusoids
from longrec.ops.gated_delta import naive_gated_delta
from longrec.ops.linear_attention import naive_linear
from longrec.ops.short_conv import naive_convolution

EXAMPLES.update(
    {
        "fuxi-linear": {
            "a short table": partial(FuXiLinearMixer, heads=2, periods=2, positions=20),
            "wider than the model": partial(
                FuXiLinearMixer, heads=2, periods=5, base=60, position_width=4
            ),
        },
        "gated-linear": {
            "two heads": GatedLinearMixer,
            "one head, plain": partial(GatedLinearMixer, heads=1, convolution=0),
        },
        "gated-delta": {
            "two heads": GatedDeltaMixer,
            "one head, plain": partial(GatedDeltaMixer, heads=1, convolution=0),
        },
    }
)


def silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def last_of(x: Tensor, events: int) -> Tensor:
    """The last events of x (T, D) and zeros before the first, with a batch axis."""
    return torch.cat([x.new_zeros(events, x.shape[1]), x])[len(x) :][None]


@define.register
def _(mixer: GatedDeltaMixer, x: Tensor, times: Tensor) -> Defined:
    projected, width = x @ mixer.inputs.weight.t(), mixer.convolution.width
    mixed = silu(naive_convolution(projected, mixer.convolution.weight.t()))
    q, k, v = (part.unflatten(-1, (mixer.heads, -1)) for part in mixed.chunk(3, -1))
    forget, replace = (x @ mixer.rates.weight.t()).chunk(2, -1)
    log_decay = -mixer.log_rate.exp() * (1 + (forget + mixer.rate_bias).exp()).log()
    beta = 1 / (1 + (-replace).exp())
    outputs, memory = [], []
    for h in range(mixer.heads):
        unit = [part[:, h] / part[:, h].norm(dim=-1, keepdim=True) for part in (q, k)]
        o, last = naive_gated_delta(*unit, v[:, h], beta[:, h], log_decay[:, h])
        outputs.append(o / (o.square().mean(-1, keepdim=True) + EPS).sqrt() * mixer.gain)
        memory.append(last)
    y = torch.cat(outputs, -1) * silu(x @ mixer.gate.weight.t())
    state = GatedDeltaState(torch.stack(memory)[None], last_of(projected, max(width - 1, 0)))
    return y @ mixer.output.weight.t(), state


@define.register
def _(mixer: GatedLinearMixer, x: Tensor, times: Tensor) -> Defined:
    n = layer_norm(x, x.shape[1:], mixer.norm.weight, mixer.norm.bias)
    gate, v = mixer.inputs(n).chunk(2, -1)
    q, k = (torch.where(part > 0, part + 1, part.exp()) for part in mixer.features(v).chunk(2, -1))
    half, d = x.shape[1] // 2, x.shape[1] // mixer.heads
    turned = []
    for part in (q, k):  # pairs (i, i + D / 2) by t 10,000^(-2i / D)
        rows = []
        for t in range(len(x)):
            angle = t * 10_000.0 ** (-torch.arange(half).double() / half)
            pair = torch.complex(part[t, :half], part[t, half:]) * torch.polar(
                torch.ones_like(angle), angle
            )
            rows.append(torch.cat([pair.real, pair.imag]))
        turned.append(torch.stack(rows))
    outputs, sums = [], []
    for h in range(mixer.heads):
        first = torch.arange(h * d // 2, (h + 1) * d // 2)
        pairs = torch.cat([first, half + first])  # the head's features
        read, total = naive_linear(*(p[:, pairs] for p in turned), v[:, h * d : (h + 1) * d])
        rows = []
        for t in range(len(x)):
            mean = k[: t + 1, pairs].mean(0)
            rows.append(read[t] / (t + 1) / (q[t, pairs] @ mean + MEAN_EPS))
        outputs.append(torch.stack(rows))
        sums.append(total)
    local = naive_convolution(v, mixer.convolution.weight.t()) + mixer.bias
    y = (torch.cat(outputs, -1) + local) * silu(gate)
    state = GatedLinearState(
        torch.stack(sums)[None],
        k.sum(0)[None],
        torch.tensor([len(x)]),
        last_of(v, max(mixer.convolution.width - 1, 0)),
    )
    return mixer.output(y), state


def normed(x: Tensor) -> Tensor:
    """x (T, D) less its mean, over its deviation."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + NORM_EPS).sqrt()


@define.register
def _(mixer: FuXiLinearMixer, x: Tensor, times: Tensor) -> Defined:
    dim, events, pairs = x.shape[1], len(x), 2 * len(mixer.periods)
    n = normed(x)
    of_time = pairs * math.ceil(dim / pairs)
    u, q, k, v = silu(n @ mixer.inputs.weight.t()).split([2 * dim + of_time, dim, dim, dim], -1)
    of_time, of_position = (n @ mixer.values.weight.t()).split([of_time, dim], -1)
    q, k, v = (part.unflatten(-1, (mixer.heads, -1)) for part in (q, k, v))
    rate, heads, retention = x.new_zeros(()), [], []
    for h in range(mixer.heads):
        rate = rate + (1 + mixer.rate[h].exp()).log()
        age = torch.arange(events)[:, None] - torch.arange(events)
        left = (-(-rate).exp() * (age + 1)).exp().tril()
        heads.append((q[:, h] @ k[:, h].t() * left) @ v[:, h])
        rest = (-(-rate).exp() * age[-1]).exp()[:, None]
        retention.append((k[:, h] * rest).t() @ v[:, h])
    clock = times.cummax(0).values
    log_gamma = -(1 + (-mixer.forget).exp()).log()
    own = of_time.unflatten(-1, (pairs, -1))
    timed = naive_time(own, clock, log_gamma, mixer.periods)
    timed = timed * mixer.time_read[:, None] + own * mixer.time_own[:, None]
    theta = 2 * math.pi * (clock[:, None] % mixer.periods / mixer.periods.double())
    passed = 2 * math.pi * ((clock[-1] - clock)[:, None] / mixer.periods.double())
    keys = torch.stack([theta.cos(), theta.sin()], -1) * (log_gamma * passed).exp()[..., None]
    time_sums = torch.einsum("thc,thd->hcd", torch.cat([keys, keys], 1), own)
    width = mixer.table.shape[1]
    beyond = sinusoids(torch.arange(events), width)[len(mixer.table) :]
    rows = torch.cat([mixer.table[:events], beyond])
    placed = (rows @ rows.t() / (width / 2)).tril() @ of_position
    placed = placed * mixer.position_read + of_position * mixer.position_own
    channels = (torch.cat(heads, -1), timed.flatten(1), placed)
    y = (u * torch.cat([normed(part) for part in channels], -1)) @ mixer.output.weight.t()
    state = FuXiLinearState(
        torch.stack(retention)[None],
        time_sums[None],
        (rows.t() / (width / 2) @ of_position)[None],
        clock[-1:],
        torch.tensor([events]),
    )
    return y, state
