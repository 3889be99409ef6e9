"""Definitions of linear attention's systems, each written as its paper writes it.

The paper's form over a whole history, in both directions, read at its last event, for every prefix.
"""

from __future__ import annotations

from functools import partial

import torch
from mixers.definitions import define_convolution, project
from torch import Tensor
from torch.nn.functional import elu, normalize, relu

from longrec.checks.definitions import EXAMPLES, Defined, define
from longrec.mixers.cosformer import CosformerMixer, CosformerState
from longrec.mixers.efficient_attention import EfficientAttentionMixer
from longrec.mixers.kernel import KernelMixer, KernelState
from longrec.mixers.limarec import InterestMixer, InterestState
from longrec.mixers.linear_transformer import LinearTransformerMixer
from longrec.mixers.linrec import LinRecMixer
from longrec.mixers.performer import PerformerMixer
from longrec.ops.normalised import LEAST, naive_by_columns, naive_by_weights

EXAMPLES["linear-transformer"] = {
    "paper": partial(LinearTransformerMixer, heads=4, convolution=0),
    "default": LinearTransformerMixer,
}
EXAMPLES["efficient-attention"] = {"paper": partial(EfficientAttentionMixer, convolution=0)}
EXAMPLES["linrec"] = {"paper": partial(LinRecMixer, convolution=0)}
EXAMPLES["performer"] = {"9 features": partial(PerformerMixer, features=9, convolution=0)}
EXAMPLES["cosformer"] = {"40 events": partial(CosformerMixer, heads=1, reach=40, convolution=0)}
EXAMPLES["limarec"] = {"3 interests": partial(InterestMixer, interests=3)}


def projected(mixer: KernelMixer, x: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """One history x (T, D) -> q, k and v, (H, T, d) each, and the convolution's state."""
    h, inputs = define_convolution(mixer.convolution, x)
    parts = project(h, mixer.inputs.weight, 3, mixer.heads)
    return tuple(part.transpose(0, 1) for part in parts), inputs


def joined(mixer: KernelMixer, heads: list[Tensor]) -> Tensor:
    return torch.cat(heads, 1) @ mixer.output.weight.t()


def by_weights(mixer: KernelMixer, x: Tensor, phi_q, phi_k, least: float = LEAST) -> Defined:
    (q, k, v), inputs = projected(mixer, x)
    q, k = phi_q(q), phi_k(k)
    heads = [naive_by_weights(*head, least) for head in zip(q, k, v, strict=True)]
    return joined(mixer, heads), KernelState((k.mT @ v)[None], k.sum(1)[None], inputs)


@define.register
def _(mixer: LinearTransformerMixer, x: Tensor, times: Tensor) -> Defined:
    return by_weights(mixer, x, lambda q: elu(q) + 1, lambda k: elu(k) + 1)


@define.register
def _(mixer: PerformerMixer, x: Tensor, times: Tensor) -> Defined:
    def phi(x: Tensor) -> Tensor:
        x = x / x.shape[-1] ** 0.25
        rows = [x @ w - (x * x).sum(-1) / 2 for w in mixer.directions]
        return torch.stack(rows, -1).exp()

    return by_weights(mixer, x, phi, phi)


@define.register
def _(mixer: CosformerMixer, x: Tensor, times: Tensor) -> Defined:
    """By the cosine of distances, and the state by the cosine and sine of places."""
    (q, k, v), inputs = projected(mixer, x)
    q, k, place = relu(q), relu(k), torch.arange(len(x)).clamp_max(mixer.reach - 1)
    angle = torch.pi / 2 * place.double() / mixer.reach
    rows = []
    for t in range(len(x)):
        weights = (k[:, : t + 1] @ q[:, t, :, None])[..., 0] * (angle[t] - angle[: t + 1]).cos()
        total = weights.sum(1).clamp_min(mixer.least)
        rows.append(((weights[:, None] @ v[:, : t + 1])[:, 0] / total[:, None]).flatten())
    features = torch.cat([k * angle.cos()[:, None], k * angle.sin()[:, None]], -1)
    kernel = KernelState((features.mT @ v)[None], features.sum(1)[None], inputs)
    state = CosformerState(kernel, torch.tensor([len(x)]))
    return torch.stack(rows) @ mixer.output.weight.t(), state


@define.register
def _(mixer: EfficientAttentionMixer, x: Tensor, times: Tensor) -> Defined:
    (q, k, v), inputs = projected(mixer, x)
    softmax = partial(torch.softmax, dim=0)
    heads = [naive_by_columns(*head, softmax) for head in zip(q.softmax(-1), k, v, strict=True)]
    weights = k.exp()
    return joined(mixer, heads), KernelState((weights.mT @ v)[None], weights.sum(1)[None], inputs)


@define.register
def _(mixer: LinRecMixer, x: Tensor, times: Tensor) -> Defined:
    (q, k, v), inputs = projected(mixer, x)
    q, k = normalize(elu(q), dim=-1) / q.shape[-1] ** 0.5, elu(k)
    columns = partial(normalize, dim=0)
    heads = [naive_by_columns(*head, columns) for head in zip(q, k, v, strict=True)]
    return joined(mixer, heads), KernelState((k.mT @ v)[None], (k * k).sum(1)[None], inputs)


@define.register
def _(mixer: InterestMixer, x: Tensor, times: Tensor) -> Defined:
    """Each interest is a query of every event, to the sums of phi(k) v^T and phi(k)."""
    k, v = (part.transpose(0, 1) for part in project(x, mixer.inputs.weight, 2, mixer.heads))
    k, rows, sums, weights = elu(k) + 1, [], [], []
    for query in mixer.queries:
        q = (elu(query) + 1).unflatten(-1, (mixer.heads, 1, -1))
        parts = zip(q.expand_as(k), k, v, strict=True)
        rows.append(torch.cat([naive_by_weights(*head) for head in parts], 1))
        sums.append((q @ (k.mT @ v))[:, 0])
        weights.append((q @ k.sum(1)[..., None])[:, 0, 0])
    y = torch.cat([row @ mixer.output.weight.t() for row in rows], 1)
    return y, InterestState(torch.stack(sums)[None], torch.stack(weights)[None])
