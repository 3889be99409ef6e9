"""What a recommended item rests on: attention mass by past event, and what each event adds.

The mathematics is in longrec.inference.attribution; here are the words, ids and times around it.
Users' states do not tell their events apart, so an explanation reads the log. Of a model whose
attention is not known it tells what an added score adds, and by which of the last items.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from longrec.core.arguments import check_count
from longrec.core.errors import UsageError
from longrec.core.format import listed
from longrec.core.shown import html_table, html_text
from longrec.data.catalog import Catalog
from longrec.data.given_ids import check_id
from longrec.data.unknown_ids import likely_cause
from longrec.inference.attribution import (
    WINDOW,
    LastAttention,
    attended_layers,
    attention_of_last,
)
from longrec.inference.encode import Events, check_times, encode_histories, last_items
from longrec.models import SequenceModel
from longrec.models.common.scorer import Scorer

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Explanation:
    """What the model read of a history for one item, layer by layer and head by head.

    T counts the events that were read: those of known items, the last ones where the recommender
    has a limit.

    Attributes
    ----------
    item : its id.
    score : its score after this history, the one that it is recommended with.
    bias : what of the score the item has for every user, 0 of a model without biases.
    added : what of the score an added score adds, 0 without one.
    followed : where the added score counts what follows what, a row for each of the user's last
        items that it reads, the latest first: item, and times, how often the explained item came
        soon after it in training (what came later counts less); no rows otherwise.
    events : T rows, oldest first: position (1 is the history's first event), item, time (seconds
        since 1970, or null), attention (mean over layers and heads) and contribution (sum over
        them, in units of the score); both null where the model's attention is not known.
    seen : whether the item is in the history: where seen items are left out it is not recommended.
    unknown_events : events of items that are not in the catalog, which were skipped.
    memory : the memory bank's share of attention, the same mean; 0 without a bank.
    attention, contribution : (layers, heads, T) float32; attention sums over T to one less
        `memory_attention`. Of no layers where the model's attention is not known.
    memory_attention, memory_contribution : (layers, heads) float32, the bank's.
    note : what this is and what it is not, in words.
    """

    item: Any
    score: float
    bias: float
    added: float
    followed: pl.DataFrame
    events: pl.DataFrame
    seen: bool
    unknown_events: int
    memory: float
    attention: np.ndarray
    memory_attention: np.ndarray
    contribution: np.ndarray
    memory_contribution: np.ndarray
    note: str

    @property
    def tells_attention(self) -> bool:
        """Whether the model's attention is known."""
        return len(self.attention) > 0

    @property
    def rest(self) -> float:
        """What of the score neither events nor the memory bank, `bias` or `added` add."""
        direct = self.contribution.sum(dtype=np.float64) + self.memory_contribution.sum()
        return float(self.score - self.bias - self.added - direct)

    def __repr__(self) -> str:
        return (
            f"Explanation(item {self.item!r}, score {self.score:.4f}, {len(self.events):,} events)"
        )

    def _repr_html_(self) -> str:
        shown = self.events[self.top(10)]
        which = "the events with most attention" if self.tells_attention else "the last events"
        head = f"item {self.item}, score {self.score:.4f}: {which}"
        rows = [[x if isinstance(x, float) else str(x) for x in row] for row in shown.rows()]
        return html_table(head, shown.columns, rows) + html_text(self.note)

    def to_dict(self, top: int | None = None, detail: bool = False) -> dict[str, Any]:
        """Ready for JSON; ids that JSON has no type for become text.

        Parameters
        ----------
        top : int or None
            Only so many events, those with most attention, which come first, or the newest ones
            where that is not known; None: all of them, oldest first.
        detail : bool
            Whether to give attention and contribution per layer and head, too.

        Raises
        ------
        UsageError
            When `top` is below 1.
        """
        rows = np.arange(len(self.events)) if top is None else self.top(top)
        events = self.events[rows].to_dicts()
        for row, event in zip(rows.tolist(), events, strict=True):
            event["item"] = _plain(event["item"])
            if detail:
                event["attention_by_head"] = self.attention[:, :, row].tolist()
                event["contribution_by_head"] = self.contribution[:, :, row].tolist()
        explanation = {
            "item": _plain(self.item),
            "score": self.score,
            "bias": self.bias,
            "added": self.added,
            "followed": [
                row | {"item": _plain(row["item"])} for row in self.followed.iter_rows(named=True)
            ],
            "memory": self.memory,
            "memory_contribution": float(self.memory_contribution.sum()),
            "rest": self.rest,
            "seen": self.seen,
            "events_read": len(self.events),
            "unknown_events": self.unknown_events,
            "note": self.note,
            "events": events,
        }
        if detail:
            explanation["memory_attention_by_head"] = self.memory_attention.tolist()
            explanation["memory_contribution_by_head"] = self.memory_contribution.tolist()
        return explanation

    def top(self, k: int) -> np.ndarray:
        """Rows of `events` (at most k,) with most attention, most first; of equals the newer.

        Where attention is not known, the newest first.

        Raises
        ------
        UsageError
            When `k` is below 1.
        """
        k = check_count("top", k)
        attention = self.events["attention"].fill_null(0.0).to_numpy()
        return len(attention) - 1 - np.argsort(-attention[::-1], kind="stable")[:k]


def check_explains(scorer: Scorer) -> bool:
    """Whether the model's attention by past event is known.

    Raises
    ------
    UsageError
        Where it is not, and nothing is added to the model's scores that could be told.
    """
    try:
        attended_layers(scorer.model)
    except UsageError:
        if scorer.added is None:
            raise
        return False
    return True


def explain_history(
    scorer: Scorer,
    catalog: Catalog,
    item: int,
    history: Events,
    limit: int | None = None,
    progress: Progress | None = None,
    window: int = WINDOW,
) -> Explanation:
    """What the model reads of a history for one item, O(T) in time where attention is known.

    Parameters
    ----------
    scorer : Scorer
        Of a model in eval mode.
    catalog : Catalog
    item : int
        Its index, 1 .. n_items.
    history : Events
        Its T events, oldest first; item 0 where one is unknown: such events are skipped. A late
        event counts as simultaneous with the latest before it.
    limit : int or None
        Most events that the recommender reads: the last ones.
    progress : callable or None
        Called with (events read, events to read); each event is read twice where attention is
        known.
    window : int
        Events read at once; it changes nothing but memory.

    Raises
    ------
    UsageError
        When there is nothing to tell of such a model, or no event is of a known item.
    """
    attends = check_explains(scorer)
    known = np.flatnonzero(history.items)
    seen, unknown = bool((history.items == item).any()), len(history.items) - len(known)
    whole = np.array([len(known)])
    recent = last_items(history.items[known], 0 * whole, whole, scorer.reach)
    known = known if limit is None else known[-limit:]
    if not len(known):
        raise UsageError(
            f"there is nothing to explain: of {len(history.items):,} events none is of an item in "
            "the catalog, so popular items are recommended"
        )
    history = history.where(known)
    read = history.items.astype(np.int64)
    times, clock = None, None
    if history.times is not None:
        times = history.times.astype(np.int64)
        # In a log late events stand after newer ones; a model's time does not go back.
        clock = torch.from_numpy(np.maximum.accumulate(times))
    last = recent if scorer.reach else None
    if attends:
        columns = {name: torch.from_numpy(column) for name, column in history.columns.items()}
        found = attention_of_last(
            scorer, torch.from_numpy(read), clock, item, progress, window, columns, last
        )
    else:
        clocked = history._replace(times=None if clock is None else clock.numpy())
        found = _score_alone(scorer, clocked, item, progress, last)
    events = pl.DataFrame(
        {
            "position": known + 1,
            "item": catalog.take(read),
            "time": times,
            "attention": found.events.mean((0, 1)) if attends else None,
            "contribution": found.contribution.sum((0, 1)) if attends else None,
        },
        schema_overrides={"time": pl.Int64, "attention": pl.Float32, "contribution": pl.Float32},
    )
    if attends:
        note = (
            f"Attention, not cause: how {scorer.model.name} weighed the events that it read when "
            "it scored this item; without one of them the score may change by more or by less. A "
            "state does not keep its events apart, so the whole log was read for this, of which "
            f"the model sees {len(known):,} events: the time grows with them."
        )
    else:
        note = (
            f"How {scorer.model.name} weighed each event is not known: what its network gives the "
            f"item, after the {len(known):,} events that it reads, is one number, the rest."
        )
    return Explanation(
        item=catalog.take(np.array([item]))[0],
        score=found.score,
        bias=found.bias,
        added=found.added,
        followed=_followed(scorer, catalog, recent[0], item),
        events=events,
        seen=seen,
        unknown_events=unknown,
        memory=float(found.memory.mean()) if attends else 0.0,
        attention=found.events,
        memory_attention=found.memory,
        contribution=found.contribution,
        memory_contribution=found.memory_contribution,
        note=note,
    )


@torch.inference_mode()
def _score_alone(
    scorer: Scorer, history: Events, item: int, progress: Progress | None, recent: Tensor | None
) -> LastAttention:
    """An item's score after a history, and what of it is added; attention of no layers."""
    model, states = scorer.model, list[Tensor]()
    lengths = np.array([len(history.items)])
    encode_histories(model, history, lengths, None, lambda _, h: states.append(h), progress)
    [h], chosen = states, torch.tensor([item], device=model.device)
    score = float(scorer.score(h, chosen, recent)[0, 0])
    bias = model.item_bias(chosen) if isinstance(model, SequenceModel) else None
    none = np.empty((0, 1, len(history.items)), np.float32)
    return LastAttention(
        score,
        0.0 if bias is None else float(bias[0]),
        score - float(model.score(h, chosen)[0, 0]),
        *(none, none[..., 0], none, none[..., 0]),
    )


def _followed(scorer: Scorer, catalog: Catalog, recent: Tensor, item: int) -> pl.DataFrame:
    """`Explanation.followed` for a user's last items (reach,), the latest first."""
    last, times = recent[recent > 0], None
    if scorer.added is not None and len(last):
        times = scorer.added.followed(last.to(scorer.added.device), item)
    if times is None:
        last, times = last[:0], torch.zeros(0, dtype=torch.float64)
    return pl.DataFrame({"item": catalog.take(last.numpy()), "times": times.cpu().numpy()})


def explain_given(
    scorer: Scorer,
    catalog: Catalog,
    item: Any,
    history: Sequence[Any] | pl.Series,
    times: Sequence[int] | np.ndarray | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
) -> Explanation:
    """The same for an item and a history given as ids, with times in seconds since 1970.

    Raises
    ------
    UsageError
        As `explain_history`; also when the item is unknown, or the model reads times and there are
        none that fit.
    """
    model = scorer.model
    check_explains(scorer)
    index = find_item(catalog, item)
    moments = None if times is None else _seconds(times, len(history))
    check_times(model, moments)
    if model.reads_columns:
        raise UsageError(
            f"{model.name} reads {listed(model.reads_columns)} of each event, which this "
            "history does not have: explain for a user of histories or of a store"
        )
    items = catalog.find(history) if len(history) else np.zeros(0, np.int64)
    return explain_history(scorer, catalog, index, Events(items, moments), limit, progress)


def find_item(catalog: Catalog, item: Any) -> int:
    """The index of an item to be explained; UsageError where the catalog does not have it."""
    check_id("item", item)
    index = int(catalog.find([item])[0])
    if not index:
        cause = likely_cause([item], catalog.ids)
        raise UsageError(
            f"item {item!r} is not in the catalog: give one that the model knows"
            + (f" (likely cause: {cause})" if cause else "")
        )
    return index


def _seconds(times: Sequence[int] | np.ndarray, events: int) -> np.ndarray:
    """Given times as (events,) int64."""
    try:
        given = np.asarray(times)
    except ValueError:  # rows of several lengths
        given = np.empty((), object)
    if given.shape != (events,) or (events and given.dtype.kind not in "iu"):
        raise UsageError(
            f"times is {given.dtype} of shape {given.shape}; give a whole number of seconds since "
            f"1970 for each of the {events:,} events"
        )
    return given.astype(np.int64)


def _plain(value: Any) -> Any:
    """An id as JSON has it."""
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return value if isinstance(value, str | int | float) else str(value)
