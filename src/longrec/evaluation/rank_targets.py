"""From scores and targets to ranks: every target among the whole catalog, in blocks.

Ties in score count against the model, and so does a score that is not a number. The filtered rank
leaves out the items that the user has seen; the target itself is never left out.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import polars as pl
import torch
from torch import Tensor

from longrec.core.arrays import Ints, places
from longrec.data.histories import Histories
from longrec.data.splits import Targets, repeats
from longrec.inference.encode import Progress, encode_targets, last_items, requests_of
from longrec.models.common.scorer import Scorer

SCORES_AT_ONCE = 1 << 22


def rank_targets(
    scorer: Scorer,
    histories: Histories,
    targets: Targets,
    context: int | None = None,
    progress: Progress | None = None,
) -> pl.DataFrame:
    """Rank every target among the catalog.

    Parameters
    ----------
    scorer : Scorer
        Of a model in eval mode; an added score reads the known items before each target.
    histories : Histories
    targets : Targets
    context : int or None
        Read at most this many events before a target (as the model was trained), besides the
        model's own `max_length`.
    progress : callable or None
        Called with (events read, events in all).

    Returns
    -------
    polars.DataFrame
        user, position, length, rank, rank_unfiltered, known, repeat; one row per target.
    """
    model = scorer.model
    requests = requests_of(histories, targets, model.reads(context), model.causal)
    # What is never ranked (nothing known before it) stands after everything.
    filtered = np.full(len(targets), model.n_items + 1)
    unfiltered = filtered.copy()
    last = len(histories.items) - 1  # a target of unknown item may stand behind the last event
    wanted = histories.items[np.minimum(targets.positions, last)].astype(np.int64)
    starts = histories.offsets[targets.users]

    def use(numbers: Ints, h: Tensor) -> None:
        for part in _blocks(targets.positions[numbers] - starts[numbers] + model.n_items):
            chosen = numbers[part]
            lengths = targets.positions[chosen] - starts[chosen]
            rows = np.repeat(np.arange(len(chosen)), lengths)
            seen = histories.items[places(starts[chosen], lengths)].astype(np.int64)
            tensors = (torch.from_numpy(x).to(h.device) for x in (wanted[chosen], rows, seen))
            recent = last_items(
                histories.items, starts[chosen], targets.positions[chosen], scorer.reach
            )
            ranks = _ranks(scorer.score(h[part], recent=recent), *tensors)
            filtered[chosen], unfiltered[chosen] = (r.cpu().numpy() for r in ranks)

    if len(targets):
        encode_targets(model, histories, requests, use, progress)
    return pl.DataFrame(
        {
            "user": targets.users,
            "position": targets.positions,
            "length": targets.positions - starts,
            "rank": filtered,
            "rank_unfiltered": unfiltered,
            "known": targets.known,
            "repeat": targets.known & repeats(histories, targets.users, targets.positions),
        }
    )


def _ranks(scores: Tensor, wanted: Tensor, rows: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Filtered and unfiltered ranks of `wanted` in scores (n, N); (rows, seen) pairs are filtered.

    `scores` is overwritten.
    """
    scores = scores[:, 1:]  # without padding
    own = scores.gather(1, wanted[:, None] - 1)
    # "not below" rather than "above or equal": what is not a number stands before the target.
    unfiltered = (~(scores < own)).sum(1)
    scores[rows, seen - 1] = -torch.inf
    scores.scatter_(1, wanted[:, None] - 1, own)
    filtered = (~(scores < own)).sum(1)
    # A target at -inf would tie with what was filtered; it stays last of all.
    return torch.where(own[:, 0] == -torch.inf, unfiltered, filtered), unfiltered


def _blocks(costs: Ints) -> list[slice]:
    """Cut rows into runs of at most SCORES_AT_ONCE in cost, at least one row each."""
    number = (costs.cumsum() - 1) // SCORES_AT_ONCE
    bounds = np.append(np.flatnonzero(np.append(True, number[1:] != number[:-1])), len(costs))
    return [slice(low, high) for low, high in pairwise(bounds.tolist())]
