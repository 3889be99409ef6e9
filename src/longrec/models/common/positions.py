"""Where an event stands, counted from the row's end: the last event means the same in any row."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from longrec.mixers.base import Context

EXACT = 16
PER_DOUBLING = 8
FARTHEST = 1 << 20


class Recency(nn.Module):
    """An embedding of the distance from the row's last place, for rows of any length.

    Distances below 16 have a vector each; above, 8 buckets per doubling share one, up to 2^20,
    beyond which all is one. So events of long ago are told apart as coarsely as they matter.
    """

    bounds: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        doublings = (FARTHEST // EXACT).bit_length() - 1
        steps = torch.arange(PER_DOUBLING * doublings + 1, dtype=torch.float64) / PER_DOUBLING
        near, far = torch.arange(1, EXACT), (EXACT * 2**steps).ceil().long()
        # Where a new bucket begins, in whole numbers: the same on every machine.
        self.register_buffer("bounds", torch.cat([near, far]), persistent=False)
        self.weight = nn.Parameter(torch.randn(len(self.bounds) + 1, dim) * 0.02)

    def buckets(self, distance: Tensor) -> Tensor:
        """Number of each distance's bucket; 0 is the last place itself (and what lies behind)."""
        return torch.bucketize(distance, self.bounds, right=True)

    def forward(self, events: int, lengths: Tensor | None, device: torch.device) -> Tensor:
        """Vectors of T = `events` places in rows of `lengths` (B,) -> (B or 1, T, D)."""
        ends = torch.tensor([events], device=device) if lengths is None else lengths
        distance = ends[:, None] - 1 - torch.arange(events, device=device)
        return nn.functional.embedding(self.buckets(distance), self.weight)


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
