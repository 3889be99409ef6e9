"""Losses over the catalog that never store all logits.

Shape letters: n predicted events, N items (rows of the item table, row 0 is padding), D width.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import embedding, softplus

LOGITS_AT_ONCE = 1 << 19
"""Logits held at a time: 2 MiB of float32, which stays near a core."""
LOGITS_ON_GPU = 1 << 26
FEWEST_ROWS = 32
"""But of no fewer targets: each chunk reads and writes the gradient of all items."""
RARE = 1e-30
"""A chance below this may have lost its digits, and its logarithm is found from the logits."""


def full_cross_entropy(
    h: Tensor, items: Tensor, targets: Tensor, products: torch.dtype | None = None
) -> Tensor:
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
    products : dtype or None
        In which logits, their softmax and the products of both gradients are computed; that of h
        if None. With bfloat16 the loss of a target is known to some .004 nats; gradients are summed
        over chunks in float32, and the target's own share of them is exact.

    Returns
    -------
    Tensor
        Scalar, float32 at least.
    """
    found = _FullCrossEntropy.apply(h, items, targets, products or h.dtype)  # type: ignore[no-untyped-call]
    return cast(Tensor, found)


class _FullCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, h: Tensor, items: Tensor, targets: Tensor, products: torch.dtype
    ) -> Tensor:
        kind = torch.promote_types(h.dtype, torch.float32)
        vectors, table, n = h.to(products), items[1:].to(products), len(h)
        at_once = LOGITS_ON_GPU if h.is_cuda else LOGITS_AT_ONCE
        rows = min(max(FEWEST_ROWS, at_once // len(table)), n)
        logits, chances = (table.new_empty(rows, len(table)) for _ in range(2))
        to_h, to_items = torch.empty_like(h, dtype=kind), torch.zeros_like(items, dtype=kind)
        # The last chunk is filled up with zeros: a shape of its own would get a kernel of its own.
        filled = vectors.new_zeros(rows, h.shape[1])
        total = torch.zeros((), dtype=kind, device=h.device)
        for start in range(0, n, rows):
            part, wanted = vectors[start : start + rows], targets[start : start + rows, None] - 1
            real = len(part)
            if real < rows:
                filled[:real] = part
                part = filled
            torch.mm(part, table.t(), out=logits)
            torch.softmax(logits, -1, out=chances)
            chance = chances[:real].gather(1, wanted)[:, 0].to(kind)
            total += _sum_nll(chance, part[:real], table, wanted)
            to_h[start : start + rows] = (chances @ table)[:real]
            if products == kind:
                to_items[1:].addmm_(chances.t(), part)
            else:
                to_items[1:] += chances.t() @ part
        # d loss / d logits = softmax - one_hot, over n for the mean: here the one_hot.
        to_h = to_h.sub_(items[targets]).div_(n)
        to_items = to_items.index_add_(0, targets, h.to(kind), alpha=-1).div_(n)
        ctx.save_for_backward(to_h.to(h.dtype), to_items.to(items.dtype))
        return total / n

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        to_h, to_items = ctx.saved_tensors
        return to_h * grads[0], to_items * grads[0], None, None


def _sum_nll(chance: Tensor, vectors: Tensor, table: Tensor, wanted: Tensor) -> Tensor:
    """Sum of -log softmax(vectors (n, D) table^T)[wanted (n, 1)], whose softmax is chance (n,)."""
    lost = chance < RARE
    if not bool(lost.any()):
        return -chance.log().sum()
    logits = (vectors[lost] @ table.t()).to(chance.dtype)
    rare = logits.logsumexp(1) - logits.gather(1, wanted[lost])[:, 0]
    return rare.sum() - chance[~lost].log().sum()


def sampled_softmax(
    h: Tensor,
    items: Tensor,
    targets: Tensor,
    negatives: Tensor,
    log_expected: Tensor,
    sparse: bool = False,
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
    sparse : bool
        Whether the gradient of `items` is sparse, so that nothing of size N is made.

    Returns
    -------
    Tensor
        Scalar.
    """
    hit, scores, other = _scores(h, items, targets, negatives, sparse)
    logits = (scores - log_expected[negatives]).masked_fill(~other, -torch.inf)
    # The target is in its row's sample by right, once: it needs no correction.
    return (torch.cat([hit[:, None], logits], dim=1).logsumexp(1) - hit).mean()


def binary_cross_entropy(
    h: Tensor, items: Tensor, targets: Tensor, negatives: Tensor, sparse: bool = False
) -> Tensor:
    """Mean of -log sigma(s_target) - mean_j log(1 - sigma(s_j)), over negatives j.

    SASRec (arXiv 1808.09781) draws one negative per target; the mean over shared ones
    has the same expectation and less noise. A negative that is the row's own target is left out of
    that row.

    Parameters and result are those of `sampled_softmax`.
    """
    hit, scores, other = _scores(h, items, targets, negatives, sparse)
    count = other.sum(1).clamp_min(1)  # a row without negatives adds 0
    return (softplus(-hit) + (softplus(scores) * other).sum(1) / count).mean()


def generalised_binary_cross_entropy(
    h: Tensor, items: Tensor, targets: Tensor, negatives: Tensor, t: float, sparse: bool = False
) -> Tensor:
    """gBCE of gSASRec (arXiv 2308.07192): BCE whose overconfidence from sampling is undone.

    Mean of -(beta log sigma(s_target) + sum_j log(1 - sigma(s_j))) / (m + 1), with
    alpha = m / (items - 1), the share of negatives that is drawn, and
    beta = alpha (t (1 - 1 / alpha) + 1 / alpha): from 1 at t = 0 (plain BCE over m negatives) to
    alpha at t = 1 (calibrated as if all negatives were summed).

    Parameters and result are those of `sampled_softmax`, and the calibration t in [0, 1].
    """
    hit, scores, other = _scores(h, items, targets, negatives, sparse)
    # Drawn with replacement, m may be more than there are; row 0 of the items is padding.
    alpha = min(len(negatives) / max(len(items) - 2, 1), 1.0)
    beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha)
    total = beta * softplus(-hit) + (softplus(scores) * other).sum(1)
    return total.mean() / (len(negatives) + 1)


def _scores(
    h: Tensor, items: Tensor, targets: Tensor, negatives: Tensor, sparse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores of the targets (n,) and negatives (n, m), and where a negative is another item."""
    hit = (h * embedding(targets, items, sparse=sparse)).sum(1)
    scores = h @ embedding(negatives, items, sparse=sparse).t()
    return hit, scores, negatives != targets[:, None]
