"""Users' clocks: how much time lies between an event and the one before it."""

from __future__ import annotations

import torch
from torch import Tensor

NEVER = torch.iinfo(torch.int64).min
"""The time of the last event where there was none."""


def clock_at(last: Tensor, times: Tensor) -> Tensor:
    """The time of the last event, (B,), and the clock at each of those that follow, (B, 1 + T).

    A late event does not turn the clock back: it counts as if it came with the one before it.
    """
    return torch.cat([last[:, None], times], dim=1).cummax(1).values


def gaps(clock: Tensor) -> Tensor:
    """What passed before each event of a clock (B, 1 + T), (B, T); before a user's first one, 0."""
    before, now = clock[:, :-1], clock[:, 1:]
    return torch.where(before == NEVER, torch.zeros_like(now), now - before)


def last_of(clock: Tensor, lengths: Tensor | None) -> Tensor:
    """The clock (B, 1 + T) after each row's own last event, (B,); None is all T."""
    return clock[:, -1] if lengths is None else clock.gather(1, lengths[:, None])[:, 0]
