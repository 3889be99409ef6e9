"""From scores and targets to ranks: every target among the whole catalog, in blocks.

The literature's two ranks let ties in score count against the model, and so a score that is not a
number; the filtered one leaves out the items that the user has seen, the target never. The two
ranks as served are places in the list that `recommend` gives, with seen items hidden or shown: of
equal scores the smaller item index comes first, and a target that is hidden, or not in the catalog,
is in no list. A user without known events is served the popular items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

import numpy as np
import polars as pl
import torch
from torch import Tensor

from longrec.core.arrays import Ints, places
from longrec.data.histories import Histories
from longrec.data.splits import Targets
from longrec.evaluation.metrics import MISS
from longrec.inference.encode import Progress, encode_targets, last_items, requests_of
from longrec.models.common.scorer import Scorer
from longrec.retrieval.around import Around, Block

SCORES_AT_ONCE = 1 << 22
RANKS = ("rank", "rank_unfiltered", "rank_hiding", "rank_showing")
"""Seen items filtered, the target never; unfiltered; as served, seen items hidden; or shown."""


def rank_targets(
    scorer: Scorer,
    histories: Histories,
    targets: Targets,
    context: int | None = None,
    progress: Progress | None = None,
    popular: Ints | None = None,
    also: Callable[[Ints, Tensor], None] | None = None,
) -> pl.DataFrame:
    """Rank every target among the catalog.

    Parameters
    ----------
    scorer : Scorer
        Of a model in eval mode; an added score reads the known items before each target.
    histories : Histories
        In the item indices of the model.
    targets : Targets
    context : int or None
        What the model was trained with: one that cannot stream exactly reads at most this many
        events before a target, besides its own `max_length`.
    progress : callable or None
        Called with (events read, events in all).
    popular : ndarray or None
        (n_items,) item indices, best first, that users without known events are served; None: no
        list is theirs.
    also : callable or None
        Called with numbers of targets (m,) and what the model knows before each, h (m, D), every
        target with known events once.

    Returns
    -------
    polars.DataFrame
        user, position, length, rank, rank_unfiltered, rank_hiding, rank_showing, known, repeat; one
        row per target. The ranks are those of `RANKS`.
    """
    repeated = np.zeros(len(targets), np.bool_)
    model, around = scorer.model, Around(scorer)
    requests = requests_of(histories, targets, model.reads(context), model.causal)
    # What is never ranked (nothing known before it) stands after everything.
    ranks = np.full((len(targets), len(RANKS)), model.n_items + 1)
    ranks[:, 2:] = MISS
    starts = histories.offsets[targets.users]

    def use(numbers: Ints, h: Tensor) -> None:
        if also is not None:
            also(numbers, h)
        for part in _blocks(targets.positions[numbers] - starts[numbers] + around.holds):
            chosen = numbers[part]
            lengths = targets.positions[chosen] - starts[chosen]
            rows = np.repeat(np.arange(len(chosen)), lengths)
            seen = histories.items[places(starts[chosen], lengths)].astype(np.int64)
            own, row, item = (
                torch.from_numpy(x).to(h.device) for x in (targets.items[chosen], rows, seen)
            )
            recent = last_items(
                histories.items, starts[chosen], targets.positions[chosen], scorer.reach
            )
            found, again = _ranks(around.scores(h[part], own, recent), own, row, item)
            ranks[chosen], repeated[chosen] = found.cpu().numpy(), again.cpu().numpy()

    if len(targets):
        encode_targets(model, histories, requests, use, progress)
    if popular is not None:
        place = np.full(model.n_items + 1, MISS)
        place[popular] = np.arange(1, len(popular) + 1)
        cold = targets.positions == starts
        ranks[cold, 2:] = place[targets.items[cold], None]
    known = targets.known & (targets.items > 0)
    return pl.DataFrame(
        {
            "user": targets.users,
            "position": targets.positions,
            "length": targets.positions - starts,
            **dict(zip(RANKS, ranks.T, strict=True)),
            "known": known,
            "repeat": known & repeated,
        }
    )


def _ranks(
    around: tuple[Tensor, Iterable[Block]], wanted: Tensor, row: Tensor, seen: Tensor
) -> tuple[Tensor, Tensor]:
    """The four ranks (n, 4) of `wanted` (n,), and whether it is a seen item (n,).

    Parameters
    ----------
    around : scores of the wanted items, and of all.
    wanted : (n,)
    row, seen : pairs of a user and an item that was seen, perhaps repeated; item 0 is one of no
        catalog.
    """
    own, blocks = around
    n = len(own)
    pairs = torch.unique(seen * n + row)  # in the order of items
    seen, row = pairs.div(n, rounding_mode="floor"), pairs % n
    repeated = torch.zeros_like(own, dtype=torch.bool)
    repeated[row[seen == wanted[row]]] = True
    hidden = (seen > 0) & (seen != wanted[row])
    seen, row = seen[hidden], row[hidden]
    # "not below" rather than "above or equal": what is not a number stands before the target.
    not_below, before, seen_not_below, seen_before = torch.zeros(
        4, n, dtype=torch.int64, device=own.device
    )
    for first, scores in blocks:
        # Counted in 32 bits, which takes a fifth of the time of 64.
        here = scores.shape[1] - (scores < own[:, None]).sum(1, dtype=torch.int32)
        above = (scores > own[:, None]).sum(1, dtype=torch.int32)
        not_below += here
        before += above
        tied = torch.nonzero(here > above)[:, 0]
        if len(tied):
            item = torch.arange(first, first + scores.shape[1], device=own.device)
            ties = scores[tied] == own[tied, None]
            before[tied] += (ties & (item < wanted[tied, None])).sum(1)
        bounds = torch.tensor([first, first + scores.shape[1]], device=own.device)
        part = slice(*torch.searchsorted(seen, bounds).tolist())
        item, user = seen[part], row[part]
        score, target = scores[user, item - first], own[user]
        ahead = (score > target) | ((score == target) & (item < wanted[user]))
        seen_not_below.index_add_(0, user, (~(score < target)).long())
        seen_before.index_add_(0, user, ahead.long())
    never = ~(own > -torch.inf)  # such an item is not recommended at all
    hiding = (before - seen_before + 1).masked_fill(never | repeated, MISS)
    showing = (before + 1).masked_fill(never, MISS)
    filtered = torch.where(never, not_below, not_below - seen_not_below)
    return torch.stack([filtered, not_below, hiding, showing], dim=1), repeated


def _blocks(costs: Ints) -> list[slice]:
    """Cut rows into runs of at most SCORES_AT_ONCE in cost, at least one row each."""
    number = (costs.cumsum() - 1) // SCORES_AT_ONCE
    bounds = np.append(np.flatnonzero(np.append(True, number[1:] != number[:-1])), len(costs))
    return [slice(low, high) for low, high in pairwise(bounds.tolist())]
