"""An added score for tests, what followed each of a user's last two items, and definitions."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import pytest
import torch
from models.skeletons import SYSTEMS, WITHOUT_TIMES
from torch import Tensor

from longrec.models import SequenceModel
from longrec.models.common.added_score import (
    ADDED_SCORES,
    AddedRows,
    AddedScore,
    register_added_score,
)


@dataclass(frozen=True)
class FollowersConfig:
    """Settings of the followers score."""

    weight: float = 1.0


class FollowersScore(AddedScore):
    """weight (followed the last item + half of followed the one before), and a bias of 1 / i."""

    config_class = FollowersConfig
    reach = 2
    pairs: Tensor

    def __init__(self, config: FollowersConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.register_buffer("pairs", torch.zeros(0, 3, dtype=torch.int64))

    @classmethod
    def of(cls, rows: list[list[int]], n_items: int, weight: float = 1.0) -> Self:
        """Counted from item indices of users."""
        made = cls(FollowersConfig(weight), n_items)
        pairs = [pair for row in rows for pair in pairwise(row)]
        unique, counts = torch.tensor(pairs or [[0, 0]]).unique(dim=0, return_counts=True)
        made.pairs = torch.cat([unique, counts[:, None]], 1)[unique[:, 0] > 0]
        return made

    def bias(self) -> Tensor:
        bias = 1.0 / torch.arange(self.n_items + 1, device=self.pairs.device)
        bias[0] = 0
        return bias * self.config.weight

    def rows(self, recent: Tensor) -> AddedRows:
        before, after, times = self.pairs.t()
        row, place, pair = (recent[:, :, None] == before).nonzero().t()
        value = self.config.weight * times[pair] / (1.0 + place)
        found, where = torch.stack([row, after[pair]]).unique(dim=1, return_inverse=True)
        none = value.new_zeros(found.shape[1])
        return AddedRows(*found, none.index_add(0, where, value))

    def with_items(self, n_items: int) -> Self:
        grown = type(self)(self.config, n_items)
        grown.pairs = self.pairs
        return grown


def followed(rows: list[list[int]], recent: list[int], item: int) -> float:
    """The definition of the followers score of weight 1 for a user's last two items."""
    times = [sum(pair == (last, item) for row in rows for pair in pairwise(row)) for last in recent]
    return 1 / item + times[0] + times[1] / 2


@torch.no_grad()
def model_score(model: SequenceModel, h: Tensor, item: int) -> float:
    """The definition of a model's score of one item for one user, of whom h (1, W) is known."""
    one = torch.tensor([item])
    if model.target_aware:
        return float(model.score_pairs(h, one[None]))
    best = max(float(user @ model.item_vectors(one)[0]) for user in model.user_vectors(h)[0])
    bias = model.item_bias(one)
    return best if bias is None else best + float(bias)


def skeleton(name: str, n_items: int, **settings: object) -> SequenceModel:
    """A system in float64, with weights far from symmetric and biases that count."""
    torch.manual_seed(0)
    cls = SYSTEMS[name]
    settings = {"dim": 8, **WITHOUT_TIMES.get(name, {}), **settings}
    model = cls(cls.config_class(**settings), n_items).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def register(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the followers score into the registry until the test ends."""
    monkeypatch.setitem(ADDED_SCORES.data, "followers", FollowersScore)  # until the test ends
    monkeypatch.setitem(ADDED_SCORES.sources, "followers", __name__)
    del ADDED_SCORES.data["followers"]
    register_added_score("followers")(FollowersScore)
