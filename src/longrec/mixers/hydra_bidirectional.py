"""Hydra attention, bidirectional, as HydraRec (arXiv 2501.01242) publishes it.

    y_t = phi(q_t) * sum_u m_u phi(k_u) * v_u        (elementwise products; m masks padding)

with phi(x) = x / ||x||_2 over features. The sum is one vector per history, and events differ only
by phi(q_t). It grows with the history, so `normalise` is as in the causal form (hydra.py).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from longrec.mixers.base import Context, Mixer, State, register_mixer
from longrec.mixers.hydra import phi, read_sums, sum_type
from longrec.ops.hydra import Normalise


@register_mixer("hydra-bidirectional")
class BidirectionalHydraMixer(Mixer):
    """Bidirectional Hydra attention, O(T D) after the projections.

    Parameters
    ----------
    dim : int
        Width D.
    normalise : {"none", "count", "rms"}
        What is done against the growth of |y|.
    """

    causal = False
    linear = True

    def __init__(self, dim: int, normalise: Normalise = "rms") -> None:
        super().__init__()
        self.normalise = normalise
        self.inputs = nn.Linear(dim, 3 * dim, bias=False)
        self.output = nn.Linear(dim, dim, bias=False)

    def mix(self, x: Tensor, ctx: Context) -> Tensor:
        q, k, v = self.inputs(x).chunk(3, dim=-1)
        pairs = (phi(k) * v).to(sum_type(x))
        count, mask = pairs.new_full((1, 1), x.shape[1]), ctx.mask(x)
        if mask is not None:
            pairs = pairs.masked_fill(~mask[:, :, None], 0.0)
            count = mask.sum(1, keepdim=True).clamp_min(1).to(pairs.dtype)
        y = read_sums(q, pairs.sum(1, keepdim=True), count, self.normalise)
        return cast(Tensor, self.output(y))

    def define(self, x: Tensor, times: Tensor | None = None) -> tuple[Tensor, State | None]:
        q, k, v = (x @ w.t() for w in self.inputs.weight.chunk(3))
        total, rows = torch.zeros_like(x[0]), []
        for u in range(len(x)):
            total = total + k[u] / k[u].norm().clamp_min(1e-12) * v[u]
        for t in range(len(x)):
            y = q[t] / q[t].norm().clamp_min(1e-12) * total
            if self.normalise == "count":
                y = y / len(x)
            elif self.normalise == "rms":
                y = y / (y.square().mean() + 1e-6).sqrt()
            rows.append(y @ self.output.weight.t())
        return torch.stack(rows), None

    @classmethod
    def examples(cls) -> dict[str, Callable[[int], BidirectionalHydraMixer]]:
        return {
            "paper": partial(cls, normalise="none"),
            "count": partial(cls, normalise="count"),
            "default": cls,
        }
