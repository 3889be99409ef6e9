"""Exact top-k: every item is scored, in blocks of users, and what is excluded is never returned."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from longrec.models import Model

SCORES_AT_ONCE = 1 << 22


class TopK(NamedTuple):
    """Best items per user: scores and items, both (n, k); -inf and 0 where items ran out."""

    scores: Tensor
    items: Tensor


@torch.inference_mode()
def top_k(model: Model, h: Tensor, k: int, rows: Tensor, excluded: Tensor) -> TopK:
    """The k best items of each user.

    Parameters
    ----------
    model : Model
        In eval mode.
    h : Tensor
        (n, D), what the model knows of each user.
    k : int
        Items per user.
    rows, excluded : Tensor
        (m,) int64 pairs: item excluded[i] is not recommended to user rows[i]; rows ascend.

    Returns
    -------
    TopK
        On the CPU. Of equal scores the smaller item index comes first, at the k-th place, too.
    """
    block = max(1, SCORES_AT_ONCE // (model.n_items + 1))
    wide = min(k, model.n_items)
    found = []
    for start in range(0, len(h), block):
        scores = model.score(h[start : start + block])
        low, high = 0, len(rows)
        if len(h) > block:
            low, high = torch.searchsorted(rows, torch.tensor([start, start + block])).tolist()
        mask = (rows[low:high] - start).to(scores.device), excluded[low:high].to(scores.device)
        scores[mask] = -torch.inf
        found.append(_best(scores, wide))
    if not found:
        return TopK(torch.zeros(0, wide), torch.zeros(0, wide, dtype=torch.int64))
    best, items = found[0]
    if len(found) > 1:
        best, items = (torch.cat(parts) for parts in zip(*found, strict=True))
    best = best.cpu()
    return TopK(best, items.cpu().masked_fill(best == -torch.inf, 0))


def _best(scores: Tensor, k: int) -> TopK:
    """Top k of (n, N + 1), equal scores in item order (topk alone promises no order of ties)."""
    # One more than wanted tells whether the k-th has an equal: column 0 makes room for it.
    best, items = scores.topk(k + 1, dim=1)
    last, unsure = best[:, k - 1 : k], best[:, k - 1] == best[:, k]
    best, items = best[:, :k], items[:, :k]
    unsure &= last[:, 0] > -torch.inf
    if unsure.any():
        items[unsure] = _first_of_ties(scores[unsure], last[unsure], k)
        best = scores.gather(1, items)
    if (best[:, 1:] < best[:, :-1]).all():
        return TopK(best, items)
    by_item = items.argsort(dim=1)
    best, items = best.gather(1, by_item), items.gather(1, by_item)
    order = best.argsort(dim=1, descending=True, stable=True)
    return TopK(best.gather(1, order), items.gather(1, order))


def _first_of_ties(scores: Tensor, last: Tensor, k: int) -> Tensor:
    """Items (n, k) of the top k where more items than fit have the score of the k-th, `last`."""
    above, level = ~(scores <= last), scores == last
    room = k - above.sum(1, keepdim=True)
    chosen = above | (level & (level.cumsum(1, dtype=torch.int32) <= room))
    return chosen.nonzero()[:, 1].view(-1, k)
