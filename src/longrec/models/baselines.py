"""Baselines without gradients, popularity, of late or ever and the last item's followers.

`recent-popularity` counts an event by its age, the newest training event having none:

    score_i = sum over the training events of i of 2^(-age / half_life)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from longrec.core.bounds import Bounds
from longrec.core.errors import UsageError
from longrec.models.common.base import AddedRows, CountingModel
from longrec.models.common.followers import Followers, check_numbers
from longrec.models.common.registry import register_model

DAY = 86_400
"""Seconds."""


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

    def check_counts(self) -> None:
        check_numbers(self, ("counts",), (self.n_items + 1,))

    def bias(self) -> Tensor:
        return self.counts.double()


@dataclass(frozen=True)
class RecentPopularityConfig:
    """Settings of popularity by a decayed window of time.

    Attributes
    ----------
    half_life : days after which an event counts half.
    """

    half_life: Annotated[float, Bounds(gt=0)] = 30.0


@register_model("recent-popularity")
class RecentPopularity(CountingModel):
    """Every user gets the items with the most training events, old events counting less."""

    counts_times = True
    config_class = RecentPopularityConfig
    counts: Tensor

    def __init__(self, config: RecentPopularityConfig, n_items: int) -> None:
        super().__init__()
        self.config, self.n_items = config, n_items
        self.register_buffer("counts", torch.zeros(n_items + 1, dtype=torch.float64))

    def count(self, items: Tensor, lengths: Tensor, times: Tensor | None = None) -> None:
        if times is None:
            raise UsageError(
                f"{self.name} counts events by their age, and this log has no times: prepare it "
                "with --time COLUMN, or train popularity, which needs none"
            )
        weights = torch.zeros(len(times), dtype=torch.float64)
        if len(times):
            ages = (times.max() - times).double() / DAY
            weights = 2.0 ** (-ages / self.config.half_life)
        self.counts = torch.bincount(items, weights, minlength=self.n_items + 1)

    def check_counts(self) -> None:
        check_numbers(self, ("counts",), (self.n_items + 1,))

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

    def check_counts(self) -> None:
        check_numbers(self, ("counts",), (self.n_items + 1,))
        self.check_followers()

    def bias(self) -> Tensor:
        # Popularity, scaled below 1, only orders items that followed equally often.
        return self.counts.double() / (self.counts.sum(dtype=torch.float64) + 1)

    def rows(self, recent: Tensor) -> AddedRows:
        return self.followers_of(recent[:, 0])
