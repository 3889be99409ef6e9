"""What a model is: histories in, what is known after each event out, and scores of items.

A model makes of a history one vector h per event, and of h scores: by vectors of the user and of
the items, by pairs of h and a candidate, or by counts. Losses, evaluation, retrieval, streams and
export use nothing else. Item index 0 is padding and never scored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from longrec.mixers import Context
from longrec.mixers.base import EMPTY

Streaming = Literal["exact", "windowed", "none"]
CELLS = 1 << 22
"""Pairs of a user and an item that rows are summed up of at once."""


class AddedRows(NamedTuple):
    """What is added to some items of some users, each (row, item) once.

    row, item : (m,) int64, the user's number and the item index; value : (m,), finite.
    """

    row: Tensor
    item: Tensor
    value: Tensor


def rows_in_blocks(
    of_some: Callable[[Tensor, int], AddedRows], recent: Tensor, n_items: int
) -> AddedRows:
    """Rows of users by their last items, recent (n, reach), made for `CELLS` pairs at a time.

    of_some : (last items of some users, the number of the first of them) -> their rows.
    """
    block = max(1, CELLS // (n_items + 1))
    parts = [
        of_some(recent[start : start + block], start)
        for start in range(0, max(1, len(recent)), block)
    ]
    return AddedRows(*map(torch.cat, zip(*parts, strict=True)))


class Model(nn.Module):
    """The common face of every model, trained by gradient or by counting.

    Attributes
    ----------
    name : what it is registered as.
    paper : where it was published, "" if nowhere.
    paper_settings : settings of the model and of training that its paper has otherwise than our
        defaults do, by key: what `recipe="paper"` sets.
    searched : settings of the model that are worth searching, by key, and among which values, as
        `longrec tune --search` takes them: "0..0.6", "x0.5,x1,x2" (times what it is), "full,bce".
    causal : whether h after an event depends on no later event.
    streaming : "exact" when a state of fixed size gives what the whole history gives, "windowed"
        when only the last `max_length` events are seen, "none" otherwise.
    streams_as : the model to train instead where a stream is wanted, if this one has no state.
    max_length : most events that the model can read, or None for no limit.
    reads_times : whether the events' times must be given.
    without_times : the setting by which it needs none, "forgetting=events" for instance.
    settings_with_times : settings that have other defaults where the log has times.
    reads_columns : further columns of events that must be given, "type" for instance; those of
        its mixers among them.
    columns_by_setting : further columns that it reads where a setting says so, each with that
        setting, {"type": "negative=skip"} for instance.
    """

    name: ClassVar[str]
    paper: ClassVar[str] = ""
    paper_settings: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    searched: ClassVar[Mapping[str, str]] = MappingProxyType({})
    causal: ClassVar[bool] = True
    streaming: ClassVar[Streaming]
    streams_as: ClassVar[str | None] = None
    without_times: str = ""
    settings_with_times: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    columns_by_setting: ClassVar[Mapping[str, str]] = MappingProxyType({})
    config_class: ClassVar[type[Any]]
    config: Any
    max_length: int | None = None
    n_items: int
    reads_times: bool = False
    reads_columns: tuple[str, ...] = ()

    @property
    def takes_times(self) -> bool:
        """Whether the events' times change anything; a log to train or measure on has them then."""
        return self.reads_times

    @property
    def linear(self) -> bool:
        """Whether the cost of reading a history grows linearly with its length."""
        raise NotImplementedError

    @property
    def cost(self) -> str:
        """Operations on a history, "O(T D²)" for instance, besides feed-forward networks."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Where the weights (or counts) are."""
        return cast(torch.device, next(iter(self.state_dict().values())).device)

    def reads(self, context: int | None) -> int | None:
        """Most events read of a history by one that was trained with `context`; None for all.

        A model that streams exactly reads all of them, whatever it was trained on: its state does.
        """
        limits = [self.max_length] if self.streaming == "exact" else [context, self.max_length]
        return min((n for n in limits if n is not None), default=None)

    def check_counts(self) -> None:
        """Raise ValueError where tensors that were loaded hold what none of this model could."""

    def encode(self, items: Tensor, ctx: Context = EMPTY) -> Tensor:
        """items (B, T) -> h (B, T, W): what is known after each event."""
        raise NotImplementedError

    def score(self, h: Tensor, items: Tensor | None = None) -> Tensor:
        """Scores of items after histories of which h (n, W) is known.

        Parameters
        ----------
        h : Tensor
            (n, W).
        items : Tensor or None
            Item indices: (C,), the same for all; (n, C), for each its own; None for all items.

        Returns
        -------
        Tensor
            (n, C); of all items (n, n_items + 1), whose column 0 (padding) is -inf.
        """
        raise NotImplementedError


class CountingModel(Model):
    """A model fitted in one pass of counting, without gradients.

        score(user, i) = bias_i + what the rows add for the user's last `reach` known items

    h (n, max(1, reach)) are these items themselves, int64, the latest first, 0 where there were
    none; so a stream keeps them as its state, and exact search merges the items of the rows with
    the best by bias.

    Attributes
    ----------
    reach : how many last items are read; 0: everybody gets the same scores.
    counts_times : whether `count` must be given the events' times.
    """

    streaming = "exact"
    counts_times: ClassVar[bool] = False
    reach: int = 0

    @property
    def linear(self) -> bool:
        return True

    @property
    def cost(self) -> str:
        return "O(1)"

    def count(self, items: Tensor, lengths: Tensor, times: Tensor | None = None) -> None:
        """Fit to training events.

        Parameters
        ----------
        items : Tensor
            (n,) item indices, one history after the other, int32 or int64.
        lengths : Tensor
            (users,) int64, how many of the events are of each user's history.
        times : Tensor or None
            (n,) int64 seconds of the events; None where the log has no times.
        """
        raise NotImplementedError

    def bias(self) -> Tensor:
        """What every user's items get alike: (n_items + 1,) float64, finite, 0 for padding."""
        raise NotImplementedError

    def rows(self, recent: Tensor) -> AddedRows:
        """What some items of some users get on top of the bias; recent (n, reach) as h is."""
        none = recent.new_zeros(0)
        return AddedRows(none, none, self.bias().new_zeros(0))

    def reads(self, context: int | None) -> int | None:
        return max(1, self.reach)

    def encode(self, items: Tensor, ctx: Context = EMPTY) -> Tensor:
        width = max(1, self.reach)
        padded = nn.functional.pad(items.long(), (width, 0))
        return padded.unfold(1, width, 1)[:, 1:].flip(-1)  # of no events, none

    def score(self, h: Tensor, items: Tensor | None = None) -> Tensor:
        scores = self.bias().repeat(len(h), 1)
        row, item, value = self.rows(h[:, : self.reach])
        scores[row, item] += value
        scores[:, 0] = -torch.inf
        return scores if items is None else scores.gather(1, items.expand(len(h), -1))
