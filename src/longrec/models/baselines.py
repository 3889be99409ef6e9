"""Baselines without gradients, to be beaten: popularity and the last item's followers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from longrec.models.common.base import AddedRows, CountingModel
from longrec.models.common.registry import register_model


@dataclass(frozen=True)
class BaselineConfig:
    """Baselines have nothing to set."""


@register_model("popularity")
class Popularity(CountingModel):
    """Every user gets the items with the most training events."""

    config_class = BaselineConfig
    counts: Tensor

    def __init__(self, config: BaselineConfig, n_items: int) -> None:
        super().__init__()
        self.config, self.n_items = config, n_items
        self.register_buffer("counts", torch.zeros(n_items + 1))

    def count(self, items: Tensor, lengths: Tensor) -> None:
        self.counts = torch.bincount(items, minlength=self.n_items + 1).float()

    def bias(self) -> Tensor:
        return self.counts.double()


@register_model("last-item")
class LastItem(CountingModel):
    """Items by how often they followed the user's last item in training, then by popularity."""

    config_class = BaselineConfig
    reach = 1
    starts: Tensor
    followers: Tensor
    times: Tensor
    counts: Tensor

    def __init__(self, config: BaselineConfig, n_items: int) -> None:
        super().__init__()
        self.config, self.n_items = config, n_items
        self.register_buffer("starts", torch.zeros(n_items + 2, dtype=torch.int64))
        self.register_buffer("followers", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("times", torch.zeros(0))
        self.register_buffer("counts", torch.zeros(n_items + 1))

    def count(self, items: Tensor, lengths: Tensor) -> None:
        self.counts = torch.bincount(items, minlength=self.n_items + 1).float()
        last = torch.zeros(len(items), dtype=torch.bool)
        last[lengths.cumsum(0)[lengths > 0] - 1] = True
        before = torch.where(last, 0, items)[:-1].long()
        pair, times = torch.unique(
            (before * (self.n_items + 1) + items[1:])[before > 0], return_counts=True
        )
        first = pair // (self.n_items + 1)
        self.followers, self.times = pair % (self.n_items + 1), times.float()
        self.starts = torch.searchsorted(first, torch.arange(self.n_items + 2))

    def bias(self) -> Tensor:
        # Popularity, scaled below 1, only orders items that followed equally often.
        return self.counts.double() / (self.counts.sum(dtype=torch.float64) + 1)

    def rows(self, recent: Tensor) -> AddedRows:
        last = recent[:, 0]
        number = self.starts[last + 1] - self.starts[last]
        row = torch.repeat_interleave(torch.arange(len(last), device=last.device), number)
        before = number.cumsum(0) - number
        pair = torch.arange(len(row), device=last.device) - before[row] + self.starts[last][row]
        return AddedRows(row, self.followers[pair], self.times[pair].double())

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        # The number of pairs belongs to the data, so these two take the stored size.
        for name in ("followers", "times"):
            if prefix + name in state_dict:
                setattr(self, name, torch.empty_like(state_dict[prefix + name]))
        super()._load_from_state_dict(state_dict, prefix, *rest)
