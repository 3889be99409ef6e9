"""Gated linear mixers as their papers write them: slowly, one whole history at a time."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from longrec.checks.definitions import EXAMPLES, Defined, define
from longrec.mixers.gated_delta import EPS, GatedDeltaMixer, GatedDeltaState
from longrec.ops.gated_delta import naive_gated_delta
from longrec.ops.short_conv import naive_convolution

EXAMPLES.update(
    {
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
