"""Item-based nearest neighbours: items that the users of the last items have, too.

    w(a -> i) = c_ai / (sqrt(n_a n_i) + shrinkage)      of the `neighbours` items i with the largest

with n_a the users who have a in training and c_ai those who have both: the cosine of two columns of
the matrix of users and items, drawn towards 0 where few users are behind it. Sarwar et al. (WWW
2001) compare such measures; Deshpande & Karypis (ACM TOIS 22, 2004) keep each item's nearest ones
and score by the sum over a user's items, as here (models/common/last_items.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from longrec.core.bounds import MOST, Bounds
from longrec.models.common.baskets import Baskets
from longrec.models.common.followers import Followers
from longrec.models.common.last_items import LastItemsModel
from longrec.models.common.registry import register_model


@dataclass(frozen=True)
class ItemKNNConfig:
    """Settings of the nearest neighbours of items.

    Attributes
    ----------
    last : how many last items are read.
    decay : what each item further back counts, of the one after it.
    neighbours : how many most similar items are kept of each.
    shrinkage : users that are added to a cosine's divisor, so that few in common mean little.
    """

    last: Annotated[int, Bounds(ge=1, le=1000)] = 50
    decay: Annotated[float, Bounds(gt=0, le=1)] = 0.8
    neighbours: Annotated[int, Bounds(ge=1, le=MOST)] = 100
    shrinkage: Annotated[float, Bounds(ge=0, le=MOST)] = 10.0


@register_model("item-knn")
class ItemKNN(Followers, LastItemsModel):
    """Items most similar to the user's last ones: those that the same users have, by the cosine."""

    paper = "doi 10.1145/963770.963776"
    paper_settings = MappingProxyType({"last": 1000, "decay": 1.0})
    searched = MappingProxyType(
        {"last": "5..500", "decay": "0.5..1", "neighbours": "20..1000", "shrinkage": "1..200"}
    )
    # Neighbours stand as followers do: `times` are their similarities.
    config_class = ItemKNNConfig

    def __init__(self, config: ItemKNNConfig, n_items: int) -> None:
        super().__init__()
        self.config, self.n_items = config, n_items
        self.reach, self.decay = config.last, config.decay
        self.make_room(n_items)
        self.register_buffer("counts", torch.zeros(n_items + 1, dtype=torch.int64))

    def count(self, items: Tensor, lengths: Tensor, times: Tensor | None = None) -> None:
        self.count_events(items)
        baskets = Baskets(items, lengths, self.n_items)
        number = np.zeros(self.n_items + 2, np.int64)  # neighbours of item a at a + 1
        followers, similar = [np.zeros(0, np.int32)], [np.zeros(0, np.float32)]
        for one, other, users in baskets.in_common():
            divisor = (baskets.users[one] * baskets.users[other]).sqrt() + self.config.shrinkage
            item, near, cosine = self._nearest(
                one.numpy(), other.numpy(), (users / divisor).numpy()
            )
            number[1:] += np.bincount(item, minlength=self.n_items + 1)
            followers.append(near.astype(np.int32))
            similar.append(cosine.astype(np.float32))
        device = self.starts.device
        self.starts = torch.from_numpy(number.cumsum()).to(device)
        self.followers = torch.from_numpy(np.concatenate(followers)).to(device)
        self.times = torch.from_numpy(np.concatenate(similar)).to(device)

    def check_counts(self) -> None:
        super().check_counts()
        self.check_followers()

    def add(self, total: Tensor, last: Tensor, weight: Tensor) -> None:
        row, item, similarity = self.followers_of(last)
        total[row, item] += weight[row] * similarity

    def _nearest(
        self, one: np.ndarray, other: np.ndarray, cosine: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of pairs of items, in their order, those of each item a with the most similar others.

        Of others that are equally similar the ones of smaller index are kept.
        """
        others = one != other
        one, other, cosine = one[others], other[others], cosine[others]
        order = np.lexsort((-cosine, one))  # which keeps the order of equals
        begin = np.searchsorted(one, one)
        kept = np.sort(order[np.arange(len(one)) - begin < self.config.neighbours])
        return one[kept], other[kept], cosine[kept]
