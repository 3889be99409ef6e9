"""Windows of a fixed number of events, with each row's events at the END of its window.

Batches are padded at the end; mechanisms with weights by place were published with padding in
front, so that the last event always has the last place. `at_end` moves a batch there, and
`from_end` moves what was made of it back.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def at_end(x: Tensor, lengths: Tensor | None, size: int, before: Tensor | None = None) -> Tensor:
    """Move each row's events to the end of a window.

    Parameters
    ----------
    x : Tensor
        (B, T, D), padded at the end.
    lengths : Tensor or None
        (B,) events of each row; None for T.
    size : int
        Places of a window.
    before : Tensor or None
        What stands in front of the events, as far as there is room: it broadcasts to (B, size, D).
        None is 0.

    Returns
    -------
    Tensor
        (B, size, D).

    Raises
    ------
    ValueError
        When a row has more events than the window has places.
    """
    events = x.shape[1]
    most = events if lengths is None or events <= size else int(lengths.max())
    if most > size:
        raise ValueError(f"a row has {most} events, and the window has {size} places")
    if lengths is None:
        if before is None or events == size:
            return pad(x, (0, 0, size - events, 0))
        return torch.cat([before.expand(len(x), -1, -1)[:, : size - events], x], dim=1)
    event = torch.arange(size, device=x.device) - size + lengths[:, None]
    moved = x.gather(1, event.clamp(0, events - 1)[..., None].expand(-1, -1, x.shape[2]))
    front = x.new_zeros(()) if before is None else before
    return torch.where(event[..., None] < 0, front, moved)


def from_end(y: Tensor, lengths: Tensor | None, events: int) -> Tensor:
    """Back again: y (B, size, D) -> (B, T, D) for T = `events`; nothing real at padding."""
    size = y.shape[1]
    if lengths is None:
        return y[:, size - events :]
    place = torch.arange(events, device=y.device) + size - lengths[:, None]
    return y.gather(1, place.clamp_max(size - 1)[..., None].expand(-1, -1, y.shape[2]))
