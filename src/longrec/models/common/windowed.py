"""What SASRec and BERT4Rec share: the last events alone, and learnt positions of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from longrec.mixers.base import Context, Mixer
from longrec.models.common.config import WindowedConfig
from longrec.models.common.sequence import SequenceModel


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

    @property
    def cost(self) -> str:
        """That of the last W = `max_length` events."""
        return super().cost.replace("T", "W")

    def embed(self, items: Tensor, ctx: Context, masked: Tensor | None = None) -> Tensor:
        position = positions_from_end(items, ctx, len(self.positions), self.config.max_length)
        return super().embed(items, ctx, masked) + self.positions[position]


def positions_from_end(items: Tensor, ctx: Context, table: int, max_length: int) -> Tensor:
    """Row of a table of positions for each event of items (B, T): (B or 1, T) int64.

    The papers pad in front, so the last event always has the table's last row.

    Raises
    ------
    ValueError
        When a row has more events than the table has positions.
    """
    lengths = torch.tensor([items.shape[1]]) if ctx.lengths is None else ctx.lengths
    # Most calls are so short that they need not look at the data.
    if items.shape[1] > table and int(lengths.max()) > table:
        masks = "" if table == max_length else " and a mask after them"
        raise ValueError(
            f"a row has {int(lengths.max())} events{masks and ' with its mask'}; "
            f"max_length is {max_length}{masks}"
        )
    ends = lengths.to(items.device)[:, None]
    position = torch.arange(items.shape[1], device=items.device) + table - ends
    return position.clamp_max(table - 1)
