"""Scores by the cosine of the history's vector and the item's, over a temperature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import normalize

from longrec.mixers import Mixer
from longrec.models.common.blocks import Block
from longrec.models.common.config import SequenceConfig
from longrec.models.common.sequence import SequenceModel

TEMPERATURE = 0.05
"""By which cosines are divided."""
EPS = 1e-6
"""Shorter vectors are divided by this instead of their norm."""


class CosineModel(SequenceModel):
    """score(t, i) = cos(x_t, E_i) / .05, as HSTU's code and those that follow it have it.

    There is no norm behind the last block, since a cosine has none to lose.
    """

    def __init__(
        self,
        config: SequenceConfig,
        n_items: int,
        mixers: Sequence[Mixer],
        block: Callable[[Mixer, Any], Block],
    ) -> None:
        super().__init__(config, n_items, mixers, block)
        self.norm = nn.Identity()

    def user_vectors(self, h: Tensor) -> Tensor:
        return normalize(h, dim=-1, eps=EPS)[:, None] / TEMPERATURE

    def item_vectors(self, items: Tensor | None = None) -> Tensor:
        return normalize(super().item_vectors(items), dim=-1, eps=EPS)
