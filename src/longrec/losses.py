"""Losses over the catalog that never store all logits.

Shape letters: n predicted events, N items (rows of the item table, row 0 is padding), D width.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import softplus

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
    hit, scores, other = _scores(h, items, targets, negatives)
    logits = (scores - log_expected[negatives]).masked_fill(~other, -torch.inf)
    # The target is in its row's sample by right, once: it needs no correction.
    return (torch.cat([hit[:, None], logits], dim=1).logsumexp(1) - hit).mean()


def binary_cross_entropy(h: Tensor, items: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
    """Mean of -log sigma(s_target) - mean_j log(1 - sigma(s_j)), over negatives j.

    SASRec (arXiv 1808.09781) draws one negative per target; the mean over shared ones
    has the same expectation and less noise. A negative that is the row's own target is left out of
    that row.

    Parameters
    ----------
    h : Tensor
        (n, D) user vectors.
    items : Tensor
        (N, D) item vectors.
    targets : Tensor
        (n,) int64 in 1..N-1.
    negatives : Tensor
        (m,) int64, shared by all rows.

    Returns
    -------
    Tensor
        Scalar.
    """
    hit, scores, other = _scores(h, items, targets, negatives)
    return (softplus(-hit) + (softplus(scores) * other).sum(1) / _count(other)).mean()


def generalised_binary_cross_entropy(
    h: Tensor, items: Tensor, targets: Tensor, negatives: Tensor, t: float
) -> Tensor:
    """gBCE of gSASRec (arXiv 2308.07192): BCE whose overconfidence from sampling is undone.

    Mean of -(beta log sigma(s_target) + sum_j log(1 - sigma(s_j))) / (m + 1), with
    alpha = m / (items - 1), the share of negatives that is drawn, and
    beta = alpha (t (1 - 1 / alpha) + 1 / alpha): from 1 at t = 0 (plain BCE over m negatives) to
    alpha at t = 1 (calibrated as if all negatives were summed).

    Parameters
    ----------
    h, items, targets, negatives : Tensor
        As in `binary_cross_entropy`; N counts the padding row, which is no item.
    t : float
        Calibration, in [0, 1].

    Returns
    -------
    Tensor
        Scalar.
    """
    hit, scores, other = _scores(h, items, targets, negatives)
    # Drawn with replacement, m may be more than there are.
    alpha = min(len(negatives) / max(len(items) - 2, 1), 1.0)
    beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha)
    total = beta * softplus(-hit) + (softplus(scores) * other).sum(1)
    return total.mean() / (len(negatives) + 1)


def bayesian_personalised_ranking(
    h: Tensor, items: Tensor, targets: Tensor, negatives: Tensor
) -> Tensor:
    """BPR (arXiv 1205.2618): mean of -mean_j log sigma(s_target - s_j), over negatives j.

    Parameters and result are those of `binary_cross_entropy`.
    """
    hit, scores, other = _scores(h, items, targets, negatives)
    return ((softplus(scores - hit[:, None]) * other).sum(1) / _count(other)).mean()


def _scores(
    h: Tensor, items: Tensor, targets: Tensor, negatives: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores of the targets (n,) and negatives (n, m), and where a negative is another item."""
    hit = (h * items[targets]).sum(1)
    return hit, h @ items[negatives].t(), negatives != targets[:, None]


def _count(other: Tensor) -> Tensor:
    return other.sum(1).clamp_min(1)  # a row without negatives adds 0
