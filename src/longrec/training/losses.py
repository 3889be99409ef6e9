"""Losses over the catalog that never store all logits.

Those against sampled negatives are functions of scores, whichever way a model makes them.

Shape letters: n predicted events, R vectors of a user, D width, m negatives, N rows of the item
table, of which row 0 is padding.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn.functional import softplus

LOGITS_AT_ONCE = 1 << 22
"""Logits held at a time, 16 MiB of float32. Fewer are nearer to a core, but each chunk reads and
writes the gradient of all items: at 12,000 items of width 256 that was half of the loss's time."""
LOGITS_ON_GPU = 1 << 26
FEWEST_ROWS = 32
"""But of no fewer targets, and chunks hold a multiple of so many."""
RARE = 1e-30
"""A chance below this may have lost its digits, and its logarithm is found from the logits."""


class Taught(NamedTuple):
    """What teachers say comes next: softmax(t), t_i = <v, f_i> + c_i.

    Attributes
    ----------
    users : v, (n, W).
    items : f, (N, W); row 0 (padding) takes no part.
    bias : c, (N,), or None.
    share : of the loss that this has, from 0 to 1; the targets have the rest.
    """

    users: Tensor
    items: Tensor
    bias: Tensor | None
    share: float


def full_cross_entropy(
    users: Tensor,
    items: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    products: torch.dtype | None = None,
    taught: Taught | None = None,
) -> Tensor:
    """Mean cross-entropy over all items: -log softmax(s)[target], s_i = max_r <u_r, e_i> + b_i.

    With teachers the mean of (1 - share) times that and of share times -sum_i q_i log softmax(s)_i,
    q being what they say.

    Rows are taken in chunks, and each chunk's gradient is computed while its logits are at hand,
    so that forward and backward together store n x R x D and N x D numbers and never n x N.

    Parameters
    ----------
    users : Tensor
        (n, R, D), R vectors of each user. The gradient of an item's score goes to the one that gave
        it, the first of equals.
    items : Tensor
        (N, D) item vectors; row 0 (padding) takes no part.
    targets : Tensor
        (n,) int64 in 1..N-1.
    bias : Tensor or None
        (N,), of each item.
    products : dtype or None
        In which logits, their softmax and the products of both gradients are computed; that of
        users if None. With bfloat16 the loss of a target is known to (1 + |s|) / 256 nats, s being
        the largest score: .02 at 5, .06 at 15, a third of that on average, and next to nothing over
        many targets, since the errors have both signs. Gradients are summed over chunks in float32,
        and the target's own share of them is exact.
    taught : Taught or None
        No gradient goes to what is in it.

    Returns
    -------
    Tensor
        Scalar, float32 at least.
    """
    kind = products or users.dtype
    found = _FullCrossEntropy.apply(users, items, bias, targets, kind, taught)  # type: ignore[no-untyped-call]
    return cast(Tensor, found)


class _FullCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        users: Tensor,
        items: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        products: torch.dtype,
        taught: Taught | None,
    ) -> Tensor:
        kind = torch.promote_types(users.dtype, torch.float32)
        vectors, table = users.to(products), items[1:].to(products)
        biases = None if bias is None else bias[1:].to(products)
        (n, interests, width), size = users.shape, len(table)
        at_once = LOGITS_ON_GPU if users.is_cuda else LOGITS_AT_ONCE
        most = max(FEWEST_ROWS, at_once // (size * interests))
        chunks = max(1, -(-n // most))
        rows = min(most, FEWEST_ROWS * -(-n // (FEWEST_ROWS * chunks)))  # even, and of few shapes
        logits, chances = table.new_empty(rows, interests, size), table.new_empty(rows, size)
        to_users = torch.empty_like(users, dtype=kind)
        to_items = torch.zeros_like(items, dtype=kind)
        to_bias = None if bias is None else torch.zeros_like(bias, dtype=kind)
        winner = torch.zeros(n, dtype=torch.int64, device=users.device)  # of R, for the target
        # The last chunk is filled up with zeros: each shape gets a kernel of its own.
        filled = vectors.new_zeros(rows, interests, width)
        total = torch.zeros((), dtype=kind, device=users.device)
        share = 0.0 if taught is None else taught.share
        said = None if taught is None else _in_type(taught, products)
        for start in range(0, n, rows):
            chunk = slice(start, start + rows)
            part, wanted = vectors[chunk], targets[chunk, None] - 1
            real = len(part)
            if real < rows:
                filled[:real] = part
                part = filled
            best, won = _scores(part, table, biases, logits)
            torch.softmax(best, -1, out=chances)
            chance = chances[:real].gather(1, wanted)[:, 0].to(kind)
            total += _sum_nll(chance, part[:real], table, biases, wanted)
            if said is not None:
                likely = _likely(said, chunk)
                hit = best[:real].gather(1, wanted).sum(dtype=kind)
                total += share * (hit - torch.sum(likely * best[:real], dtype=kind))
                chances[:real].sub_(likely, alpha=share)
            shares = chances
            if won is not None:  # each item's share at the interest that gave its score
                shares = logits.zero_().scatter_(1, won[:, None], chances[:, None]).flatten(0, 1)
            flat = part.flatten(0, 1)
            to_users[chunk] = (shares @ table).view_as(part)[:real]
            if products == kind:
                to_items[1:].addmm_(shares.t(), flat)
            else:
                to_items[1:] += shares.t() @ flat
            if to_bias is not None:
                to_bias[1:] += chances[:real].sum(0, dtype=kind)
            if won is not None:
                winner[chunk] = won[:real].gather(1, wanted)[:, 0]
        # d loss / d logits = softmax - one_hot, over n for the mean: here the one_hot.
        own = torch.arange(n, device=users.device), winner
        to_users[own] -= (1 - share) * items[targets]
        to_items.index_add_(0, targets, users[own].to(kind), alpha=share - 1)
        if bias is not None and to_bias is not None:
            to_bias -= (1 - share) * torch.bincount(targets, minlength=size + 1).to(kind)
            to_bias = to_bias.div_(n).to(bias.dtype)
        to_users, to_items = to_users.div_(n), to_items.div_(n)
        ctx.save_for_backward(to_users.to(users.dtype), to_items.to(items.dtype), to_bias)
        return total / n

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        to_users, to_items, to_bias = ctx.saved_tensors
        to_bias = None if to_bias is None else to_bias * grads[0]
        return to_users * grads[0], to_items * grads[0], to_bias, None, None, None


def _in_type(taught: Taught, products: torch.dtype) -> Taught:
    """The same in the type of products, without the padding item."""
    bias = None if taught.bias is None else taught.bias[1:].to(products)
    return taught._replace(
        users=taught.users.to(products), items=taught.items[1:].to(products), bias=bias
    )


def _likely(said: Taught, chunk: slice) -> Tensor:
    """How likely teachers think each item in these rows."""
    scores = said.users[chunk] @ said.items.t()
    return torch.softmax(scores if said.bias is None else scores.add_(said.bias), -1)


def _scores(
    vectors: Tensor, table: Tensor, bias: Tensor | None, out: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """vectors (n, R, D) -> scores (n, N), and which of R gave each, None where R is 1.

    `out` (n, R, N) is overwritten; the scores are a part of it where R is 1.
    """
    if out is None:
        out = vectors.new_empty(*vectors.shape[:2], len(table))
    torch.mm(vectors.flatten(0, 1), table.t(), out=out.view(-1, len(table)))
    best, won = (out[:, 0], None) if vectors.shape[1] == 1 else out.max(1)
    return (best if bias is None else best.add_(bias)), won


def _sum_nll(
    chance: Tensor, vectors: Tensor, table: Tensor, bias: Tensor | None, wanted: Tensor
) -> Tensor:
    """Sum of -log softmax(scores of vectors (n, R, D))[wanted (n, 1)], where it is chance (n,)."""
    lost = chance < RARE
    if not bool(lost.any()):
        return -chance.log().sum()
    logits = _scores(vectors[lost], table, bias)[0].to(chance.dtype)
    rare = logits.logsumexp(1) - logits.gather(1, wanted[lost])[:, 0]
    return rare.sum() - chance[~lost].log().sum()


def sampled_softmax(hit: Tensor, scores: Tensor, other: Tensor, log_expected: Tensor) -> Tensor:
    """Mean cross-entropy over the target and shared sampled negatives, with logQ correction.

    Each negative's score is lowered by the log of the item's expected number of occurrences in the
    sample, so that the expectation approaches the full softmax (Bengio & Senecal 2008; Yi et al.
    2019). A negative that is the row's own target is left out of that row.

    Parameters
    ----------
    hit : Tensor
        Scores of the targets, (n,).
    scores : Tensor
        Scores of the negatives, (n, m).
    other : Tensor
        (n, m) bool: where the negative is another item than the target.
    log_expected : Tensor
        Log of each negative's expected number of occurrences in the sample, (m,).

    Returns
    -------
    Tensor
        Scalar.
    """
    logits = (scores - log_expected).masked_fill(~other, -torch.inf)
    # The target is in its row's sample by right, once: it needs no correction.
    return (torch.cat([hit[:, None], logits], dim=1).logsumexp(1) - hit).mean()


def binary_cross_entropy(hit: Tensor, scores: Tensor, other: Tensor) -> Tensor:
    """Mean of -log sigma(s_target) - mean_j log(1 - sigma(s_j)), over negatives j.

    SASRec (arXiv 1808.09781) draws one negative per target; the mean over shared ones
    has the same expectation and less noise. A negative that is the row's own target is left out of
    that row.

    Parameters and result are those of `sampled_softmax`.
    """
    count = other.sum(1).clamp_min(1)  # a row without negatives adds 0
    return (softplus(-hit) + (softplus(scores) * other).sum(1) / count).mean()


def generalised_binary_cross_entropy(
    hit: Tensor, scores: Tensor, other: Tensor, n_items: int, t: float
) -> Tensor:
    """gBCE of gSASRec (arXiv 2308.07192): BCE whose overconfidence from sampling is undone.

    Mean of -(beta log sigma(s_target) + sum_j log(1 - sigma(s_j))) / (m + 1), with
    alpha = m / (n_items - 1), the share of negatives that is drawn, and
    beta = alpha (t (1 - 1 / alpha) + 1 / alpha): from 1 at t = 0 (plain BCE over m negatives) to
    alpha at t = 1 (calibrated as if all negatives were summed).

    Parameters and result are those of `sampled_softmax`, the items of the catalog, and the
    calibration t in [0, 1].
    """
    negatives = scores.shape[1]
    # Drawn with replacement, m may be more than there are.
    alpha = min(negatives / max(n_items - 1, 1), 1.0)
    beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha)
    total = beta * softplus(-hit) + (softplus(scores) * other).sum(1)
    return total.mean() / (negatives + 1)
