"""Linformer, LightSANs, FMLP-Rec and WEARec as their papers write them, over whole windows."""

from __future__ import annotations

from functools import partial

import torch
from mixers.definitions import EXAMPLES, define, project
from torch import Tensor
from torch.nn.functional import gelu, layer_norm

from longrec.checks.definitions import Defined
from longrec.mixers.fmlp_rec import FilterMixer
from longrec.mixers.lightsans import LightSANsMixer
from longrec.mixers.linformer import LinformerMixer
from longrec.mixers.wearec import WaveletFilterMixer
from longrec.ops.filters import naive_filter, naive_haar

EXAMPLES.update(
    {
        "linformer": {
            "one head": partial(LinformerMixer, heads=1, rank=3, max_length=100),
            "long": partial(LinformerMixer, rank=4, max_length=2048),
        },
        "lightsans": {
            "one head": partial(LightSANsMixer, heads=1, interests=3, max_length=100),
            "two heads": partial(LightSANsMixer, interests=4, max_length=97),
        },
        "fmlp-rec": {
            "even": partial(FilterMixer, max_length=100),
            "odd": partial(FilterMixer, max_length=97),
        },
        "wearec": {
            "even": partial(WaveletFilterMixer, max_length=100),
            "odd": partial(WaveletFilterMixer, heads=3, alpha=0.6, max_length=97),
        },
    }
)


def windowed(x: Tensor, places: int) -> Tensor:
    """x (T, D) behind as many zeros as make a window: (places, D)."""
    return torch.cat([x.new_zeros(places - len(x), x.shape[1]), x])


def heads_of(x: Tensor, weight: Tensor, heads: int) -> list[Tensor]:
    """x (T, D) projected, as (T, d) of each head."""
    (parts,) = project(x, weight, 1, heads)
    return list(parts.unbind(1))


@define.register
def _(mixer: LinformerMixer, x: Tensor, times: Tensor) -> Defined:
    window, rows = windowed(x, mixer.max_length), []
    queries = heads_of(x, mixer.query.weight, mixer.heads)
    keys = heads_of(window, mixer.keys.weight, mixer.heads)
    values = heads_of(window, mixer.values.weight, mixer.heads)
    for q, k, v in zip(queries, keys, values, strict=True):
        scores = q @ (mixer.key_sums @ k).t() / q.shape[1] ** 0.5
        rows.append(scores.softmax(-1) @ (mixer.value_sums @ v))
    return torch.cat(rows, 1) @ mixer.output.weight.t(), None


@define.register
def _(mixer: LightSANsMixer, x: Tensor, times: Tensor) -> Defined:
    q, k, v = (x @ w.t() for w in mixer.inputs.weight.chunk(3))
    interests = [
        torch.stack([(part.exp() / part.exp().sum()) @ of for part in (of @ theta).t()])
        for of, theta in ((k, mixer.pool_keys), (v, mixer.pool_values))
    ]
    norm = mixer.position_norm
    places = layer_norm(mixer.positions, norm.normalized_shape, norm.weight, norm.bias)[-len(x) :]
    pq, pk = (places @ w.t() for w in mixer.position_inputs.weight.chunk(2))
    rows = []
    for head in torch.arange(x.shape[1]).chunk(mixer.heads):
        root = len(head) ** 0.5
        read = (q[:, head] @ interests[0][:, head].t() / root).softmax(1) @ interests[1][:, head]
        placed = (pq[:, head] @ pk[:, head].t() / root).softmax(1) @ v[:, head]
        rows.append(read + placed)
    return torch.cat(rows, 1) @ mixer.output.weight.t(), None


@define.register
def _(mixer: FilterMixer, x: Tensor, times: Tensor) -> Defined:
    factor = torch.complex(mixer.filter[..., 0], mixer.filter[..., 1])
    y = naive_filter(windowed(x, mixer.max_length), lambda spectrum: spectrum * factor)
    return y[-len(x) :], None


@define.register
def _(mixer: WaveletFilterMixer, x: Tensor, times: Tensor) -> Defined:
    window = windowed(x, mixer.places)
    first, _, second = mixer.context
    hidden = gelu(first.weight @ window.mean(0) + first.bias)
    chosen = (second.weight @ hidden + second.bias).view(mixer.heads, -1, 2)
    parts = []
    for h, part in enumerate(window.chunk(mixer.heads, dim=1)):
        gain = mixer.gain[h] * (1 + chosen[h, :, 0])
        offset = mixer.offset[h] + chosen[h, :, 1]
        parts.append(naive_filter(part, lambda z, g=gain, b=offset: z * g[:, None] + b[:, None]))
    local = naive_haar(window, mixer.detail)
    y = mixer.alpha * torch.cat(parts, 1) + (1 - mixer.alpha) * local
    return y[-len(x) :], None
