"""The softmax systems' mixers as their papers write them."""

from __future__ import annotations

from functools import partial

import torch
from mixers.definitions import EXAMPLES, define, project
from torch import Tensor

from longrec.checks.definitions import Defined
from longrec.mixers.hstu import LARGEST, HSTUMixer
from longrec.mixers.summary import SummaryMixer, SummaryState
from longrec.ops.attention import rotate
from longrec.ops.hstu import naive_hstu
from longrec.ops.summary import naive_summary

EXAMPLES |= {
    "hstu": {
        "by time": partial(HSTUMixer, max_length=40),
        "without": partial(HSTUMixer, heads=1, max_length=40, time_bias=False),
    },
    "summary": {
        "segments of 5": partial(SummaryMixer, segment=5, tokens=2, summaries=2),
        "one segment before": partial(SummaryMixer, heads=1, segment=16, tokens=1, summaries=1),
    },
}


@define.register
def _(mixer: SummaryMixer, x: Tensor, times: Tensor) -> Defined:
    layout, end = mixer.layout, len(x)
    position = torch.arange(end)[:, None]
    q, k, v = project(x, mixer.inputs.weight, 3, mixer.heads)
    q, k = rotate(q, position), rotate(k, position)
    y = naive_summary(q, k, v, layout).flatten(1)
    begin = end // layout.period * layout.period
    kept = [
        begin - age * layout.period + layout.segment + token
        for age in range(layout.summaries, 0, -1)
        for token in range(layout.tokens)
    ]
    kept += range(begin, begin + layout.period)
    pairs = torch.cat([k.flatten(1), v.flatten(1)], 1)
    zero = torch.zeros_like(pairs[0])
    pairs = torch.stack([pairs[u] if 0 <= u < end else zero for u in kept])
    return y @ mixer.output.weight.t(), SummaryState(pairs[None], torch.tensor([end]))


@define.register
def _(mixer: HSTUMixer, x: Tensor, times: Tensor) -> Defined:
    projected = x @ mixer.inputs.weight.t()
    u, *parts = (projected * projected.sigmoid()).chunk(4, 1)
    v, q, k = (part.clamp_max(LARGEST).unflatten(1, (mixer.heads, -1)) for part in parts)
    biases = mixer.by_distance, mixer.by_time
    y = naive_hstu(q, k, v, *biases, times, mixer.divisor).flatten(1)
    spread = y.var(1, correction=0, keepdim=True) + 1e-6
    return u * (y - y.mean(1, keepdim=True)) / spread.sqrt(), None
