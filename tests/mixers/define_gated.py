"""Gated linear mixers as their papers write them: slowly, one whole history at a time."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from longrec.checks.definitions import EXAMPLES, Defined, define
from longrec.mixers.gated_delta import EPS, GatedDeltaMixer, GatedDeltaState
from longrec.mixers.gated_linear import EPS as MEAN_EPS
from longrec.mixers.gated_linear import GatedLinearMixer, GatedLinearState
from longrec.ops.gated_delta import naive_gated_delta
from longrec.ops.linear_attention import naive_linear
from longrec.ops.short_conv import naive_convolution

EXAMPLES.update(
    {
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
