"""Where an event stands, counted from the row's end, for rows of any length."""

from __future__ import annotations

import torch
from torch import Tensor, nn

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
