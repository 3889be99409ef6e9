"""What SASRec and BERT4Rec share: the last events alone, and learnt positions of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from longrec.mixers.base import Context, Mixer
from longrec.models.common.base import SequenceModel
from longrec.models.common.config import WindowedConfig
from longrec.models.common.positions import positions_from_end


class WindowedModel(SequenceModel):
    """Blocks over the last `max_length` events with learnt positions, counted from the end.

    A mask after the events has a position too, where the model is trained on masks.
    """

    streaming = "windowed"

    def __init__(self, config: WindowedConfig, n_items: int, mixers: Sequence[Mixer]) -> None:
        super().__init__(config, n_items, mixers)
        self.max_length = config.max_length
        table = config.max_length + (config.targets == "masked")
        self.positions = nn.Parameter(torch.randn(table, config.dim) * 0.02)

    def embed(self, items: Tensor, ctx: Context, masked: Tensor | None = None) -> Tensor:
        position = positions_from_end(items, ctx, len(self.positions), self.config.max_length)
        return super().embed(items, ctx, masked) + self.positions[position]
