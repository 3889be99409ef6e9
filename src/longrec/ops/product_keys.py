"""Search through product keys (arXiv 1907.05242): the best of M slots, for O(sqrt(M) + k^2).

The score of slot number i S + j, S = sqrt(M), is the sum of a score of i and a score of j. Each
half of the largest k sums is among the k largest of its own table, so these are found exactly.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def top_slots(scores: Tensor, topk: int) -> Tensor:
    """Halves (2, n, k) of the slots with the largest sums of scores (2, n, S)."""
    best = scores.topk(min(topk, scores.shape[-1]), dim=-1)
    sums = best.values[0, :, :, None] + best.values[1, :, None]
    top = sums.flatten(1).topk(topk).indices
    width = best.indices.shape[-1]
    return torch.stack(
        [best.indices[0].gather(1, top // width), best.indices[1].gather(1, top % width)]
    )


def naive_top_slots(scores: Tensor, topk: int) -> Tensor:
    """The definition of `top_slots`: every slot is scored."""
    sums = (scores[0, :, :, None] + scores[1, :, None]).flatten(1)
    indices, side = sums.topk(topk).indices, scores.shape[-1]
    return torch.stack([indices // side, indices % side])


def give_gradient(x: Tensor, parameter: Tensor, gradient: Tensor) -> Tensor:
    """x itself; in backward `parameter` gets `gradient`, whatever the gradient of x."""
    same: Tensor = _GiveGradient.apply(x, parameter, gradient)  # type: ignore[no-untyped-call]
    return same


class _GiveGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, parameter: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return grads[0], gradient, None
