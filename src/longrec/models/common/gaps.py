"""What the time since the event before says of an event: a vector per length of gap.

Histories may come without times, as lists of items do: then no gap is known. So that a model reads
these, too, the gaps of some histories are hidden from it in training.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

BOUNDS = tuple(2**n for n in range(32))
"""Seconds at which a longer gap gets another vector: twice as long each, up to 136 years."""
NEVER = torch.iinfo(torch.int64).min
"""The time of the event before a user's first one, and of events whose times nobody knows."""
HIDDEN = 0.05
"""Chance of a history, in training, to be read as if it had no times."""


class GapVectors(nn.Module):
    """A vector of width D for each length of gap; a gap of 0, and one that is not known, have one.

    A pause between two events tells a visit's beginning from its middle, which items alone do not.
    Gaps are known when an event comes, so that the time of the next event, which is to be
    predicted, is not looked at.

    Parameters
    ----------
    dim : int
    """

    bounds: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(len(BOUNDS) + 2, dim) * 0.02)
        self.register_buffer("bounds", torch.tensor(BOUNDS), persistent=False)

    def forward(self, times: Tensor | None, before: Tensor | None = None) -> Tensor:
        """Vectors of events, (B, T, D), or (B, D) of one event each.

        Parameters
        ----------
        times : Tensor or None
            (B, T) or (B,) int64, seconds, NEVER where not known; a late event has a gap of 0. None:
            of no event, and the vector is (D,).
        before : Tensor or None
            (B,) int64, time of the event before the first of these, NEVER where there is none;
            None: there is none in any row.
        """
        if times is None:
            return self.vectors[0]
        if before is None:
            before = times.new_full(times.shape[:1], NEVER)
        if times.ndim == 2:
            clock = torch.cat([before[:, None], times], 1).cummax(1).values
            earlier, times = clock[:, :-1], clock[:, 1:]
        else:
            earlier, times = before, torch.maximum(before, times)
        unknown = (earlier == NEVER) | (times == NEVER)
        if self.training:
            hidden = torch.rand(len(times), device=times.device) < HIDDEN
            unknown = unknown | hidden.view(-1, *[1] * (times.ndim - 1))
        gap = times - torch.where(unknown, times, earlier)
        length = 1 + (gap[..., None] >= self.bounds).sum(-1)
        return nn.functional.embedding(length.masked_fill(unknown, 0), self.vectors)
