"""From scores and targets to ranks: every target among the whole catalog, in blocks.

The literature's two ranks let ties in score count against the model, and so a score that is not a
number; the filtered one leaves out the items that the user has seen, the target never. The two
ranks as served are places in the list that `recommend` gives, with seen items hidden or shown: of
equal scores the smaller item index comes first, and a target that is hidden, or not in the catalog,
is in no list. A user without known events is served the popular items.
"""

from __future__ import annotations

from collections.abc import Callable
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
from longrec.retrieval.exact import ExactIndex

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
    model, index = scorer.model, ExactIndex(scorer, in_8_bits=False)
    requests = requests_of(histories, targets, model.reads(context), model.causal)
    # What is never ranked (nothing known before it) stands after everything.
    ranks = np.full((len(targets), len(RANKS)), model.n_items + 1)
    ranks[:, 2:] = MISS
    starts = histories.offsets[targets.users]

    def use(numbers: Ints, h: Tensor) -> None:
        if also is not None:
            also(numbers, h)
        for part in _blocks(targets.positions[numbers] - starts[numbers] + model.n_items):
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
            scores = index.scores_around(h[part], own, recent)
            found, again = _ranks(scores, own, row, item)
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


def _ranks(scores: Tensor, wanted: Tensor, row: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """The four ranks (n, 4) of `wanted` in scores (n, N), and whether it is a seen item (n,).

    (row, seen) are pairs of a user and an item that was seen; item 0 is one of no catalog.
    """
    own = scores.gather(1, wanted[:, None])
    first = torch.arange(scores.shape[1], device=scores.device) < wanted[:, None]
    hidden = torch.zeros_like(scores, dtype=torch.bool)
    hidden[row, seen] = True
    repeated = hidden.gather(1, wanted[:, None])[:, 0]
    hidden.scatter_(1, wanted[:, None], False)
    # "not below" rather than "above or equal": what is not a number stands before the target.
    not_below = ~(scores < own)
    not_below[:, 0] = False
    before = (scores > own) | ((scores == own) & first)
    before[:, 0] = False
    never = ~(own[:, 0] > -torch.inf)  # such an item is not recommended at all
    hiding, showing = ((x.sum(1) + 1).masked_fill(never, MISS) for x in (before & ~hidden, before))
    unfiltered = not_below.sum(1)
    filtered = torch.where(never, unfiltered, (not_below & ~hidden).sum(1))
    ranks = torch.stack([filtered, unfiltered, hiding.masked_fill(repeated, MISS), showing], dim=1)
    return ranks, repeated


def _blocks(costs: Ints) -> list[slice]:
    """Cut rows into runs of at most SCORES_AT_ONCE in cost, at least one row each."""
    number = (costs.cumsum() - 1) // SCORES_AT_ONCE
    bounds = np.append(np.flatnonzero(np.append(True, number[1:] != number[:-1])), len(costs))
    return [slice(low, high) for low, high in pairwise(bounds.tolist())]
