"""From a model and targets to ranks: every target among the whole catalog, in blocks.

Ties in score count against the model, and so does a score that is not a number. The filtered rank
leaves out the items that the user has seen; the target itself is never left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from longrec.data.batches import EventArrays, group, places, read
from longrec.data.histories import Histories
from longrec.data.splits import Targets, repeats
from longrec.mixers import Context
from longrec.models import Model, SequenceModel

Ints = NDArray[np.int64]
Progress = Callable[[int, int], None]

BATCH_TOKENS = 16_384
SCORES_AT_ONCE = 1 << 22
WINDOW = 4096


@dataclass(frozen=True, eq=False)
class Requests:
    """Stretches of histories to encode, and which targets read each stretch where.

    begin, lengths : (n,) stretch i covers events begin[i] .. begin[i] + lengths[i] - 1.
    first : (n + 1,) targets first[i] .. first[i + 1] - 1 belong to stretch i.
    place : (n_targets,) the event within its stretch after which a target is predicted.
    """

    begin: Ints
    lengths: Ints
    first: Ints
    place: Ints


def requests_of(
    histories: Histories, targets: Targets, limit: int | None, causal: bool
) -> Requests:
    """One stretch per user when the model reads everything causally, else one per target.

    `targets` must be in the order of users (as splits make them).
    """
    starts = histories.offsets[targets.users]
    if limit is None and causal:
        new = np.append(True, targets.users[1:] != targets.users[:-1])
        first = np.append(np.flatnonzero(new), len(new)) if len(targets) else np.zeros(1, np.int64)
        begin = starts[first[:-1]]
        return Requests(
            begin, targets.positions[first[1:] - 1] - begin, first, targets.positions - 1 - starts
        )
    begin = starts if limit is None else np.maximum(starts, targets.positions - limit)
    lengths = targets.positions - begin
    return Requests(begin, lengths, np.arange(len(targets) + 1), lengths - 1)


@torch.inference_mode()
def encode_targets(
    model: Model,
    histories: EventArrays,
    requests: Requests,
    use: Callable[[Ints, Tensor], None],
    progress: Progress | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> None:
    """Encode stretches in batches of similar length and hand on h (n, D) of their targets.

    Histories longer than 4,096 events are read in windows with the state carried on where the
    model has one. `use` gets the targets' numbers and their h, in any order, each target once;
    targets of empty stretches are left out.
    """
    carries = isinstance(model, SequenceModel) and model.streaming == "exact"
    longest, device = int(requests.lengths.max(initial=1)), model.device
    window = WINDOW if carries else longest
    order = np.flatnonzero(requests.lengths)  # what is empty is not read and must join no group
    groups = group(requests.lengths, order, batch_tokens, window)
    done = 0
    for number, (low, high) in enumerate(zip(groups.starts[:-1], groups.starts[1:], strict=True)):
        rows = groups.order[low:high]
        owner = np.repeat(np.arange(len(rows)), np.diff(requests.first)[rows])
        wanted = np.concatenate([np.arange(*requests.first[r : r + 2]) for r in rows])
        state = None
        for k in range(int(groups.windows[number])):
            lengths = np.clip(requests.lengths[rows] - k * window, 0, window)
            # A row that has ended reads nothing more and keeps its state.
            stretch = read(histories, requests.begin[rows] + k * window, lengths)
            ctx = Context(
                lengths=torch.from_numpy(lengths).to(device),
                times=None if stretch.times is None else torch.from_numpy(stretch.times).to(device),
            )
            items = torch.from_numpy(stretch.items).to(device)
            if groups.windows[number] > 1:
                assert isinstance(model, SequenceModel)
                state = model.initial_state(len(rows)) if state is None else state
                h, state = model.prefill(items, state, ctx)
            else:
                h = model.encode(items, ctx)
            place = requests.place[wanted] - k * window
            here = (place >= 0) & (place < window)
            if here.any():
                at = torch.from_numpy(owner[here]), torch.from_numpy(place[here])
                use(wanted[here], h[at[0].to(device), at[1].to(device)])
            done += int(lengths.sum())
            if progress is not None:
                progress(done, int(requests.lengths.sum()))


def rank_targets(
    model: Model,
    histories: Histories,
    targets: Targets,
    context: int | None = None,
    progress: Progress | None = None,
) -> pl.DataFrame:
    """Rank every target among the catalog.

    Parameters
    ----------
    model : Model
        In eval mode.
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
            rows, seen = _seen(histories, starts[chosen], targets.positions[chosen])
            scores, own = model.score(h[part]), torch.from_numpy(wanted[chosen])
            ranks = _ranks(scores, own.to(h.device), rows.to(h.device), seen.to(h.device))
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


def _seen(histories: Histories, begin: Ints, end: Ints) -> tuple[Tensor, Tensor]:
    """(row, item) pairs of everything that stands in events begin[i] .. end[i] - 1."""
    lengths = end - begin
    rows = np.repeat(np.arange(len(begin)), lengths)
    items = histories.items[places(begin, lengths)].astype(np.int64)
    return torch.from_numpy(rows), torch.from_numpy(items)


def _blocks(costs: Ints) -> list[slice]:
    """Cut rows into runs of at most SCORES_AT_ONCE in cost, at least one row each."""
    number = (costs.cumsum() - 1) // SCORES_AT_ONCE
    bounds = np.append(np.flatnonzero(np.append(True, number[1:] != number[:-1])), len(costs))
    return [slice(low, high) for low, high in pairwise(bounds.tolist())]
