"""Histories through a model: stretches of events encoded in batches of similar length."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from longrec.core.arrays import Ints, places
from longrec.core.errors import UsageError
from longrec.data.batches import EventArrays, group_by_length, read_padded
from longrec.data.histories import Histories
from longrec.data.splits import Targets
from longrec.mixers import Context
from longrec.models import Model, SequenceModel

Progress = Callable[[int, int], None]

BATCH_TOKENS = 16_384
WINDOW = 4096


@dataclass(frozen=True, eq=False)
class Requests:
    """Stretches of histories to encode, and which targets read each stretch where.

    begin, lengths : (n,) stretch i covers events begin[i] .. begin[i] + lengths[i] - 1.
    first : (n + 1,) targets first[i] .. first[i + 1] - 1 belong to stretch i.
    read_at : (n_targets,) the event within its stretch after which a target is predicted.
    """

    begin: Ints
    lengths: Ints
    first: Ints
    read_at: Ints


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
    groups = group_by_length(requests.lengths, order, batch_tokens, window)
    done, in_all = 0, int(requests.lengths.sum())
    for number, (low, high) in enumerate(zip(groups.starts[:-1], groups.starts[1:], strict=True)):
        rows = groups.order[low:high]
        first = requests.first[rows]
        targets = requests.first[rows + 1] - first
        owner, wanted = np.repeat(np.arange(len(rows)), targets), places(first, targets)
        state = None
        for k in range(int(groups.windows[number])):
            lengths = np.clip(requests.lengths[rows] - k * window, 0, window)
            # A row that has ended reads nothing more and keeps its state.
            begin = requests.begin[rows] + k * window
            stretch = read_padded(histories, begin, lengths, model.reads_columns)
            ctx = Context(
                lengths=torch.from_numpy(lengths).to(device),
                times=None if stretch.times is None else torch.from_numpy(stretch.times).to(device),
                columns={n: torch.from_numpy(x).to(device) for n, x in stretch.columns.items()}
                or None,
            )
            items = torch.from_numpy(stretch.items).to(device)
            if groups.windows[number] > 1:
                assert isinstance(model, SequenceModel)
                state = model.initial_state(len(rows)) if state is None else state
                h, state = model.prefill(items, state, ctx)
            else:
                h = model.encode(items, ctx)
            read_at = requests.read_at[wanted] - k * window
            here = (read_at >= 0) & (read_at < window)
            if here.any():
                at = torch.from_numpy(owner[here]), torch.from_numpy(read_at[here])
                use(wanted[here], h[at[0].to(device), at[1].to(device)])
            done += int(lengths.sum())
            if progress is not None:
                progress(done, in_all)


class Events(NamedTuple):
    """Events of histories, one history after the other: all that an encoder reads.

    items : (n,) item indices; times : (n,) int64 seconds, or None where nothing reads them;
    columns : further columns by name, (n,) each as models read them, those that the model reads.
    """

    items: np.ndarray
    times: np.ndarray | None
    columns: Mapping[str, np.ndarray] = {}

    def read_column(self, name: str, at: Ints) -> np.ndarray:
        """Values of a further column of the events at some places, as models read them."""
        return self.columns[name][at]

    def where(self, chosen: np.ndarray) -> Events:
        """Some of the events, by places or by a mask (n,)."""
        times = None if self.times is None else self.times[chosen]
        return Events(
            self.items[chosen], times, {name: x[chosen] for name, x in self.columns.items()}
        )


def encode_histories(
    model: Model,
    events: Events,
    lengths: Ints,
    limit: int | None,
    use: Callable[[Ints, Tensor], None],
    progress: Progress | None = None,
) -> None:
    """Encode whole histories and hand on h (n, D) after the last event of each.

    Parameters
    ----------
    model : Model
        In eval mode.
    events : Events
        Known items alone.
    lengths : ndarray
        (n_histories,) events of each; what is empty is not encoded.
    limit : int or None
        Most events that are read of a history, the last ones; None for all.
    use : callable
        Called with the numbers of some histories and their h.
    progress : callable or None
        Called with (events read, events in all).
    """
    read = lengths if limit is None else np.minimum(lengths, limit)
    requests = Requests(lengths.cumsum() - read, read, np.arange(len(lengths) + 1), read - 1)
    encode_targets(model, events, requests, use, progress)


def last_items(items: np.ndarray, begin: Ints, end: Ints, reach: int) -> Tensor:
    """The last items of stretches begin .. end - 1 of items, as an added score reads them.

    Returns
    -------
    Tensor
        (n, reach) int64, the latest first; 0 where a stretch has no more.
    """
    at = end[:, None] - 1 - np.arange(reach)
    found = np.zeros(at.shape, np.int64)
    inside = at >= begin[:, None]
    found[inside] = items[at[inside]]
    return torch.from_numpy(found)


def check_times(model: Model, times: object, of_log: bool = False) -> None:
    """Raise UsageError where a model that reads times would get events without them.

    A log that a model is trained or measured on has them also where it would do without.
    """
    if times is None and (model.takes_times if of_log else model.reads_times):
        other = f", or train with {model.without_times}" if model.without_times else ""
        raise UsageError(
            f"{model.name} reads the times of events, and these histories have no times: use "
            f"histories with times{other}"
        )
