"""The two channels of FuXi-Linear (arXiv 2602.23671) that know nothing of items but their values.

The time channel has two heads for each period p_h, with values of their own. With the clock t_j of
event j, the query's own time t' >= t_i, and theta(s) = 2 pi s / p_h,

    y_i^sin = sum_{j<=i} sin(theta(t') - theta(t_j)) gamma_h^{theta(t' - t_j)} v_j^sin

and the same with cos. sin and cos of a difference are products of those of both, so that a head is
linear attention with keys (cos, sin) of the event's clock, which forgets by the time that passes.
Without a time of its own a query has that of its event, t' = t_i.

The position channel is linear attention with one row of a table E for keys and queries:

    y_i = sum_{j<=i} <E_i, E_j> / (P / 2) v_j                           E (N, P)

E starts as sinusoids, of which the product depends on i - j alone. Events past its N rows have the
sinusoids themselves, so that there is no longest history.

Shape letters: B histories, T events, R periods, d width of a head, N rows, P numbers of a row.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import embedding

from longrec.ops.linear_attention import causal_linear, linear_step

CHUNK = 16
"""Events computed at once in the time channel, whose heads are many and narrow."""
LONGEST_WAVE = 10_000.0
LEAST = -80.0
"""e to this is nothing beside any other number of a history."""


def naive_time(
    values: Tensor, times: Tensor, log_gamma: Tensor, periods: Tensor, asked: Tensor | None = None
) -> Tensor:
    """The definition: values (T, 2 R, d), sin first, of rising times (T,) -> y (T, 2 R, d).

    log_gamma, periods (R,); asked (T,) is each query's own time, None for that of its event.
    """
    rows, wave = [], 2 * math.pi / periods.double()
    for i in range(len(values)):
        passed = ((times if asked is None else asked)[i] - times[: i + 1])[:, None]
        left = (log_gamma * wave * passed).exp()
        angle = passed % periods * wave  # without whole turns, so with all its digits
        weights = torch.cat([angle.sin() * left, angle.cos() * left], 1)
        rows.append((weights[:, :, None] * values[: i + 1]).sum(0))
    return torch.stack(rows)


def time_channel(
    values: Tensor,
    clock: Tensor,
    gap: Tensor,
    log_gamma: Tensor,
    periods: Tensor,
    past: Tensor | None = None,
    mask: Tensor | None = None,
    asked: Tensor | None = None,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """The time channel over a batch.

    Parameters
    ----------
    values : Tensor
        (B, 2 R, T, d), those for sin first.
    clock, gap : Tensor
        (B, T) int64, each event's clock, and what passed since the event before it.
    log_gamma, periods : Tensor
        (R,), log gamma, below 0; and p int64, in the units of the clock.
    past : Tensor or None
        (B, 2 R, 2, d) float64, the sums before these events; None for 0.
    mask : Tensor or None
        (B, T) bool, True at real events.
    asked : Tensor or None
        (B, T) int64, each query's own time, not before its clock; None for the clock.
    chunk : int
        Events computed at once.

    Returns
    -------
    (Tensor, Tensor)
        y (B, 2 R, T, d) and the sums after the last event.
    """
    kind = values.dtype
    waves = _waves(clock, periods)
    keys = torch.cat([waves, waves], -2).to(kind).transpose(1, 2)
    queries = _queries(waves, clock, log_gamma, periods, asked).to(kind).transpose(1, 2)
    log_decay = _log_left(gap, log_gamma, periods).repeat(1, 1, 2).transpose(1, 2)
    return causal_linear(queries, keys, values, past, log_decay, mask, chunk)


def time_step(
    values: Tensor,
    clock: Tensor,
    gap: Tensor,
    log_gamma: Tensor,
    periods: Tensor,
    past: Tensor,
    asked: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The same for one event: values (B, 2 R, d), clock, gap, asked (B,) -> y (B, 2 R, d), sums."""
    waves = _waves(clock, periods)
    keys = torch.cat([waves, waves], -2).to(values.dtype)
    queries = _queries(waves, clock, log_gamma, periods, asked).to(values.dtype)
    log_decay = _log_left(gap, log_gamma, periods).repeat(1, 2)
    return linear_step(queries, keys, values, past, log_decay)


def _waves(time: Tensor, periods: Tensor) -> Tensor:
    """cos and sin of theta at times (...), (..., R, 2) float64.

    Whole periods are taken off in integers: 1.7e9 seconds are more than float32 can tell apart.
    """
    angle = (time[..., None] % periods).double() * (2 * math.pi / periods.double())
    return torch.stack([angle.cos(), angle.sin()], -1)


def _queries(
    waves: Tensor, clock: Tensor, log_gamma: Tensor, periods: Tensor, asked: Tensor | None
) -> Tensor:
    """What reads the sums as sin, then as cos, of the time since: (..., 2 R, 2) float64."""
    if asked is not None:
        waves = _waves(asked, periods)
    cos, sin = waves.unbind(-1)
    queries = torch.cat([torch.stack([sin, -cos], -1), waves], -2)
    if asked is None:
        return queries
    left = _log_left(asked - clock, log_gamma, periods).exp()
    return queries * torch.cat([left, left], -1)[..., None]


def _log_left(passed: Tensor, log_gamma: Tensor, periods: Tensor) -> Tensor:
    """The logarithm of what is left after passed (...), (..., R) float64, of each period.

    Not below LEAST, which is nothing left: in a gradient the millions of short periods of a long
    gap would drown in rounding what the other gaps have to say.
    """
    log_left = passed[..., None].double() * (2 * math.pi / periods.double()) * log_gamma.double()
    return log_left.clamp_min(LEAST)


def sinusoids(position: Tensor, width: int) -> Tensor:
    """Rows of position (...) as E starts with, (..., P) float64: sin, then cos, of P / 2 waves."""
    half = width // 2
    place = torch.arange(half, device=position.device, dtype=torch.float64)
    angle = position[..., None] * LONGEST_WAVE ** (-place / half)
    return torch.cat([angle.sin(), angle.cos()], -1)


def position_rows(table: Tensor, position: Tensor) -> Tensor:
    """Rows of position (...) int64, (..., P): the table's, and sinusoids past its end."""
    rows, width = table.shape
    kept = embedding(position.clamp_max(rows - 1), table)
    inside = (position < rows)[..., None]
    return torch.where(inside, kept, sinusoids(position, width).to(table.dtype))
