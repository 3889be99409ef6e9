"""What SASRec, eSASRec, HSTU and BERT4Rec share: the last events, and learnt positions of them.

And what FMLP-Rec and WEARec have besides: windows that are always full, and norms after each part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from longrec.mixers.base import EMPTY, Context, Mixer
from longrec.models.common.blocks import NORM_EPS, Block, FeedForwardBlock, PostNormBlock
from longrec.models.common.config import LastEventsConfig
from longrec.models.common.sequence import SequenceModel
from longrec.ops.windows import at_end, from_end


class WindowedModel(SequenceModel):
    """Blocks over the last `max_length` events with learnt positions, counted from the end.

    A mask after the events has a position too, where the model is trained on masks.
    """

    streaming = "windowed"

    def __init__(
        self,
        config: LastEventsConfig,
        n_items: int,
        mixers: Sequence[Mixer],
        block: Callable[[Mixer, Any], Block] = FeedForwardBlock,
    ) -> None:
        super().__init__(config, n_items, mixers, block)
        self.max_length = config.max_length
        self.positions = nn.Parameter(torch.randn(places_of(config), config.dim) * 0.02)

    @property
    def cost(self) -> str:
        """That of the last W = `max_length` events."""
        return super().cost.replace("T", "W")

    def embed(self, items: Tensor, ctx: Context, masked: Tensor | None = None) -> Tensor:
        position = positions_from_end(items, ctx, len(self.positions), self.config.max_length)
        return super().embed(items, ctx, masked) + self.positions[position]


class FullWindowModel(WindowedModel):
    """A window that is always full: what has no event is a place like any other, in front.

    As published: an empty place holds the vector 0 of padding and its position, goes through the
    norm and all blocks, and is read by the events behind it. So what is made of an event depends on
    how many stand before it, and on nothing else that is padding. Norms stand after each part.
    """

    def __init__(self, config: LastEventsConfig, n_items: int, mixers: Sequence[Mixer]) -> None:
        super().__init__(config, n_items, mixers, PostNormBlock)
        self.embedding_norm = nn.LayerNorm(config.dim, eps=NORM_EPS)
        self.norm = nn.Identity()  # the last block ends with one

    def embed(self, items: Tensor, ctx: Context, masked: Tensor | None = None) -> Tensor:
        x: Tensor = self.embedding_norm(super().embed(items, ctx, masked))
        return x

    def through_blocks(self, x: Tensor, ctx: Context, masked: Tensor | None = None) -> Tensor:
        events, places = x.shape[1], len(self.positions)
        empty = self.embedding_norm(self.positions).expand(len(x), -1, -1)
        window = at_end(x, ctx.lengths, places, before=self.dropout(empty))
        # Mixers are told nothing of padding: to them all places are events.
        return from_end(super().through_blocks(window, EMPTY), ctx.lengths, events)


def places_of(config: LastEventsConfig) -> int:
    """Places of a window: most events that are read, and a mask after them if there are masks."""
    return config.max_length + (config.targets == "masked")


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
