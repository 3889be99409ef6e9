"""Baselines without gradients, to be beaten: popularity and the last item's followers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from longrec.models.common.base import AddedRows, CountingModel
from longrec.models.common.followers import Followers
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

    def count(self, items: Tensor, lengths: Tensor, times: Tensor | None = None) -> None:
        self.counts = torch.bincount(items, minlength=self.n_items + 1).float()

    def bias(self) -> Tensor:
        return self.counts.double()


@register_model("last-item")
class LastItem(Followers, CountingModel):
    """Items by how often they followed the user's last item in training, then by popularity."""

    config_class = BaselineConfig
    reach = 1
    counts: Tensor

    def __init__(self, config: BaselineConfig, n_items: int) -> None:
        super().__init__()
        self.config, self.n_items = config, n_items
        self.make_room(n_items)
        self.register_buffer("counts", torch.zeros(n_items + 1))

    def count(self, items: Tensor, lengths: Tensor, times: Tensor | None = None) -> None:
        self.counts = torch.bincount(items, minlength=self.n_items + 1).float()
        self.count_followers(items, lengths)

    def bias(self) -> Tensor:
        # Popularity, scaled below 1, only orders items that followed equally often.
        return self.counts.double() / (self.counts.sum(dtype=torch.float64) + 1)

    def rows(self, recent: Tensor) -> AddedRows:
        return self.followers_of(recent[:, 0])
