"""Losses over the catalog that never store all logits.

Shape letters: n predicted events, N items (rows of the item table, row 0 is padding), D width.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

LOGITS_AT_ONCE = 1 << 19
"""Logits held at a time: 2 MiB of float32, which stays in a core's cache."""


def full_cross_entropy(h: Tensor, items: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy over all items: -log softmax(h E^T)[target].

    Rows are taken in chunks, and each chunk's gradient is computed while its logits are at hand,
    so that forward and backward together store n x D and N x D numbers and never n x N.

    Parameters
    ----------
    h : Tensor
        (n, D) user vectors.
    items : Tensor
        (N, D) item vectors; row 0 (padding) takes no part.
    targets : Tensor
        (n,) int64 in 1..N-1.

    Returns
    -------
    Tensor
        Scalar, float32 at least.
    """
    return cast(Tensor, _FullCrossEntropy.apply(h, items, targets))  # type: ignore[no-untyped-call]


class _FullCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, items: Tensor, targets: Tensor) -> Tensor:
        n, catalog = h.shape[0], items.shape[0]
        kind = torch.promote_types(h.dtype, torch.float32)
        to_h, to_items = torch.empty_like(h), torch.zeros_like(items, dtype=kind)
        rows = max(16, min(LOGITS_AT_ONCE // catalog, n))
        total = torch.zeros((), dtype=kind, device=h.device)
        for start in range(0, n, rows):
            part, wanted = h[start : start + rows], targets[start : start + rows, None]
            logits = (part @ items.t()).to(kind)
            logits[:, 0] = -torch.inf
            hit = logits.gather(1, wanted)
            top = logits.amax(1, keepdim=True)
            mass = logits.sub_(top).exp_().sum(1, keepdim=True)
            total += (top + mass.log() - hit).sum()
            # d loss / d logits = softmax - one_hot, over n for the mean.
            slope = logits.div_(mass * n)
            slope.scatter_add_(1, wanted, torch.full_like(hit, -1 / n))
            slope = slope.to(h.dtype)
            to_h[start : start + rows] = slope @ items
            to_items.addmm_(slope.t().to(kind), part.to(kind))
        ctx.save_for_backward(to_h, to_items.to(items.dtype))
        return total / n

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        to_h, to_items = ctx.saved_tensors
        return to_h * grads[0], to_items * grads[0], None


def sampled_softmax(
    h: Tensor, items: Tensor, targets: Tensor, negatives: Tensor, log_expected: Tensor
) -> Tensor:
    """Mean cross-entropy over the target and shared sampled negatives, with logQ correction.

    Each logit is lowered by the log of the item's expected number of occurrences in the sample,
    so that the expectation approaches the full softmax (Bengio & Senecal 2008; Yi et al. 2019).
    A negative that is the row's own target is left out of that row.

    Parameters
    ----------
    h : Tensor
        (n, D) user vectors.
    items : Tensor
        (N, D) item vectors.
    targets : Tensor
        (n,) int64 in 1..N-1.
    negatives : Tensor
        (m,) int64, drawn with replacement and shared by all rows.
    log_expected : Tensor
        (N,) log of m times the probability of drawing each item.

    Returns
    -------
    Tensor
        Scalar.
    """
    hit = (h * items[targets]).sum(1, keepdim=True)
    logits = h @ items[negatives].t() - log_expected[negatives]
    logits = logits.masked_fill(negatives == targets[:, None], -torch.inf)
    # The target is in its row's sample by right, once: it needs no correction.
    return (torch.cat([hit, logits], dim=1).logsumexp(1) - hit[:, 0]).mean()
