"""What SASRec and BERT4Rec share: the last events alone, and learnt positions of them."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from longrec.mixers.base import Context, Mixer
from longrec.models.common.base import SequenceModel
from longrec.models.common.checks import HasShape, Targets
from longrec.models.common.positions import places_from_end


class HasWindow(HasShape, Protocol):
    """The settings that such a model has besides."""

    @property
    def max_length(self) -> int: ...
    @property
    def targets(self) -> Targets: ...


class WindowedModel(SequenceModel):
    """Blocks over the last `max_length` events with learnt positions, counted from the end.

    A mask after the events has a position too, where the model is trained on masks.
    """

    streaming = "windowed"

    def __init__(self, config: HasWindow, n_items: int, mixers: list[Mixer]) -> None:
        super().__init__(
            n_items, mixers, config.dim, config.ffn_dim, config.dropout, config.targets
        )
        self.config = config
        self.max_length = config.max_length
        table = config.max_length + (config.targets == "masked")
        self.positions = nn.Parameter(torch.randn(table, config.dim) * 0.02)

    def embed(self, items: Tensor, ctx: Context, masked: Tensor | None = None) -> Tensor:
        place = places_from_end(items, ctx, len(self.positions), self.config.max_length)
        return super().embed(items, ctx, masked) + self.positions[place]
