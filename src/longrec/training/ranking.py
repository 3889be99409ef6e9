"""Validation targets ranked where each process has some of the items alone.

A process encodes its share of the targets, from rows that it asks the owners for. Then all have
what is known before each target, and each counts how many of its own items come before it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl
import torch
from torch import Tensor

from longrec.core.arrays import Ints, places
from longrec.data.histories import Histories
from longrec.data.splits import Targets
from longrec.evaluation.metrics import MISS
from longrec.evaluation.rank_targets import SCORES_AT_ONCE
from longrec.inference.encode import Progress, encode_targets, requests_of
from longrec.models import SequenceModel
from longrec.models.common.sequence import PAIRS_AT_ONCE
from longrec.training.shards import Shards
from longrec.training.validation import MEASURED

FEWEST = 64
"""Targets that are ranked at once, at least: the own rows are read for each such block."""


@torch.no_grad()
def rank_in_shards(
    model: SequenceModel,
    tables: Mapping[str, Tensor],
    shards: Shards,
    histories: Histories,
    targets: Targets,
    context: int | None,
    progress: Progress,
) -> pl.DataFrame:
    """The columns `MEASURED` of `rank_targets`, for a model whose item tables are in shards.

    Parameters
    ----------
    model : SequenceModel
        In eval mode; which rows it holds changes.
    tables : mapping
        The own rows of its item tables.
    shards : Shards
    histories, targets, context, progress : as of `rank_targets`.
    """
    processes = shards.processes
    mine = np.arange(processes.rank, len(targets), processes.number)
    own = targets.where(mine)
    requests = requests_of(histories, own, model.reads(context), model.causal)
    read = np.unique(histories.items[places(requests.begin, requests.lengths)]).astype(np.int64)
    shards.hold(model, tables, torch.from_numpy(read).to(model.device))
    numbers: list[Ints] = [mine[:0]]
    parts = [shards.own.new_empty(0, model.width, dtype=tables[shards.names[0]].dtype)]

    def keep(some: Ints, h: Tensor) -> None:
        numbers.append(mine[some])
        parts.append(h)

    if len(own):
        encode_targets(model, histories, requests, keep, progress)
    encoded = processes.all(torch.from_numpy(np.concatenate(numbers))).numpy()
    h = processes.all(torch.cat(parts))
    shards.give(model, tables, shards.own)
    ranks = np.full((len(targets), len(MEASURED)), MISS)
    ranks[:, 2] = 0
    rows = max(FEWEST, SCORES_AT_ONCE * processes.number // shards.size)  # alike in all processes
    for begin in range(0, len(encoded), rows):
        block = slice(begin, begin + rows)
        chosen = encoded[block]
        ranks[chosen] = _ranks(model, shards, h[block], histories, targets, chosen)
    return pl.DataFrame(dict(zip(MEASURED, ranks.T, strict=True)))


def _ranks(
    model: SequenceModel,
    shards: Shards,
    h: Tensor,
    histories: Histories,
    targets: Targets,
    chosen: Ints,
) -> Ints:
    """`MEASURED` (m, 3) of some targets, of which h (m, W) is what is known before them."""
    processes, device = shards.processes, h.device
    scores = _scores(model, h, shards.own)
    scores[:, shards.own == 0] = -torch.inf
    wanted = torch.from_numpy(targets.items[chosen].astype(np.int64)).to(device)
    target = torch.arange(len(chosen), device=device)
    here = wanted % processes.number == processes.rank
    place = wanted // processes.number
    own = scores.new_zeros(len(chosen))
    own[here] = scores[target[here], place[here]]
    processes.add_up([own])

    starts = histories.offsets[targets.users[chosen]]
    lengths = targets.positions[chosen] - starts
    seen = torch.from_numpy(histories.items[places(starts, lengths)].astype(np.int64)).to(device)
    row = torch.from_numpy(np.repeat(np.arange(len(chosen)), lengths)).to(device)
    again = seen == wanted[row]
    repeated = torch.zeros_like(here).index_fill_(0, row[again], True)
    hidden = torch.zeros_like(scores, dtype=torch.bool)
    mine = (seen % processes.number == processes.rank) & ~again
    hidden[row[mine], seen[mine] // processes.number] = True

    first = shards.own < wanted[:, None]
    before = (scores > own[:, None]) | ((scores == own[:, None]) & first)
    before[:, shards.own == 0] = False
    counts = torch.stack([(before & ~hidden).sum(1), before.sum(1)], dim=1)
    processes.add_up([counts])
    never = ~(own > -torch.inf)  # such an item is not recommended at all
    hiding, showing = (counts + 1).masked_fill(never[:, None], MISS).unbind(1)
    known = torch.from_numpy(targets.known[chosen]).to(device) & (wanted > 0)
    found = [hiding.masked_fill(repeated, MISS), showing, (known & repeated).to(hiding)]
    return torch.stack(found, dim=1).cpu().numpy()


def _scores(model: SequenceModel, h: Tensor, items: Tensor) -> Tensor:
    """Scores (m, n) of items (n,), in parts where pairs are scored one by one."""
    if not model.target_aware:
        return model.score(h, items)
    parts = items.split(max(1, PAIRS_AT_ONCE // max(len(h), 1)))
    return torch.cat([model.score(h, part) for part in parts], dim=1)
