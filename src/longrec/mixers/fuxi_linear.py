"""FuXi-Linear's three channels (arXiv 2602.23671): what was read, when, and how long ago.

    n = norm(x)        [u, q, k, v] = silu(n W), u as wide as all three channels
    retention   sum_{j<=i} <q_i, k_j> exp(-g_h (i - j + 1)) v_j    g_h = exp(-cumsum_h softplus(a))
    time        a_h (sum by sin and cos of periods, `longrec.ops.fuxi_linear`) + b_h V n_i
    position    a (sum by the table of positions, likewise) + b V' n_i
    y = W_0 (u * [norm(retention); norm(time); norm(position)])

All norms are without gain. Only retention sees how items go together; the other two weigh events by
when they were, so that time and content do not disturb each other.

The strict form: a query's own time is that of its event. As published it is the time of the
request, which is the next event's time in training and evaluation: more than is known in advance.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, logsigmoid, silu, softplus

from longrec.mixers.base import EMPTY, Context, State, StreamingMixer, register_mixer
from longrec.ops.clock import NEVER, clock_at, gaps, last_of
from longrec.ops.fuxi_linear import position_rows, sinusoids, time_channel, time_step
from longrec.ops.heads import join_heads, split_heads
from longrec.ops.linear_attention import causal_linear, linear_step
from longrec.ops.sums import LASTING, sum_type

EPS = 1e-6
"""Added to the variance in norms."""
CHUNK = 32
"""Events computed at once by retention, whose heads are many."""
START = 0.02
"""Standard deviation of what the paper's code starts with."""


class FuXiLinearState(NamedTuple):
    """What the three channels keep of B histories.

    retention : (B, H, d, d), float32 at least; time_sums : (B, 2 R, 2, d) float64, d of time;
    position_sums : (B, P, D) float64; time : (B,) int64, the last event's; count : (B,) int64
    events so far.
    """

    retention: Tensor
    time_sums: Tensor
    position_sums: Tensor
    time: Tensor
    count: Tensor  # type: ignore[assignment]  # over tuple.count


@register_mixer("fuxi-linear")
class FuXiLinearMixer(StreamingMixer):
    """FuXi-Linear's channels of retention, time and position, behind one gate.

    It normalises its input itself, since gate, channels and values read the same.

    Parameters
    ----------
    dim : int
        Width D.
    heads : int
        Heads H of retention, a divisor of D; the more, the longer the last ones remember.
    periods : int
        Periods R of the time channel, whose 2 R heads have D / 2 R numbers each, rounded up.
    base : int
        The periods are 1, base, base squared, … seconds.
    positions : int
        Rows of the table of positions that are learnt; events past it have sinusoids.
    position_width : int
        Numbers P of such a row, even.
    """

    linear = True
    cost = "O(T D²)"
    reads_times = True
    undecayed = ("table",)

    periods: Tensor

    def __init__(
        self,
        dim: int,
        heads: int = 8,
        periods: int = 8,
        base: int = 16,
        positions: int = 1024,
        position_width: int = 32,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.register_buffer("periods", torch.tensor([base**h for h in range(periods)]))
        of_time = 2 * periods * -(-dim // (2 * periods))
        self.gate = 2 * dim + of_time
        self.inputs = nn.Linear(dim, self.gate + 3 * dim, bias=False)
        self.values = nn.Linear(dim, of_time + dim, bias=False)
        self.output = nn.Linear(self.gate, dim, bias=False)
        for part in (self.inputs, self.output):
            nn.init.normal_(part.weight, std=START)
        self.rate = nn.Parameter(START * torch.randn(heads))
        self.forget = nn.Parameter(torch.zeros(periods))  # gamma .5
        self.time_read = nn.Parameter(START * torch.randn(2 * periods))
        self.time_own = nn.Parameter(torch.ones(2 * periods))
        self.position_read = nn.Parameter(START * torch.randn(1))
        self.position_own = nn.Parameter(torch.ones(1))
        self.table = nn.Parameter(sinusoids(torch.arange(positions), position_width).float())

    def initial_state(self, batch: int) -> FuXiLinearState:
        weight = self.output.weight
        dim, d, device = len(weight), len(weight) // self.heads, weight.device
        pairs = 2 * len(self.periods)
        of_time = (self.gate - 2 * dim) // pairs
        zeros = torch.zeros(batch, dtype=torch.int64, device=device)
        return FuXiLinearState(
            weight.new_zeros(batch, self.heads, d, d, dtype=sum_type(weight)),
            torch.zeros(batch, pairs, 2, of_time, dtype=LASTING, device=device),
            torch.zeros(batch, self.table.shape[1], dim, dtype=LASTING, device=device),
            torch.full_like(zeros, NEVER),
            zeros,
        )

    def forward(self, x: Tensor, ctx: Context = EMPTY) -> Tensor:
        # Nobody reads the state, and padding stands at the end: real events never see it.
        return self._mix(x, None, None, _times(ctx))[0] if x.shape[1] else x

    def prefill(self, x: Tensor, state: State, ctx: Context = EMPTY) -> tuple[Tensor, State]:
        if not x.shape[1]:
            return x, state
        past = cast(FuXiLinearState, state)
        y, sums, clock = self._mix(x, past, ctx.mask(x), _times(ctx))
        new = torch.full_like(past.count, x.shape[1]) if ctx.lengths is None else ctx.lengths
        return y, FuXiLinearState(*sums, last_of(clock, ctx.lengths), past.count + new)

    def step(self, x: Tensor, state: State, ctx: Context = EMPTY) -> tuple[Tensor, State]:
        past = cast(FuXiLinearState, state)
        u, parts, of_time, of_position = self._project(x)
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in parts)
        rates = self._rates(q.dtype)
        retained, retention = linear_step(q, k, v, past.retention, -rates[None])
        clock = clock_at(past.time, _times(ctx)[:, None])
        pairs = of_time.unflatten(-1, (2 * len(self.periods), -1))
        timed, time_sums = time_step(
            *(pairs, clock[:, -1], gaps(clock)[:, -1]), *self._gamma(), past.time_sums
        )
        row = self._rows(past.count, q.dtype)[:, None]
        placed, position_sums = linear_step(
            *(row, row / self._half, of_position[:, None], past.position_sums[:, None])
        )
        channels = (
            (retained * (-rates).exp()[:, None]).flatten(1),
            self._time_mixed(timed, pairs).flatten(1),
            self._position_mixed(placed[:, 0], of_position),
        )
        sums = (retention, time_sums, position_sums[:, 0])
        return self._gated(u, channels), FuXiLinearState(*sums, clock[:, -1], past.count + 1)

    def _mix(
        self, x: Tensor, past: FuXiLinearState | None, mask: Tensor | None, times: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor], Tensor]:
        """Outputs (B, T, D), the three sums after the last event, the clock (B, 1 + T)."""
        u, parts, of_time, of_position = self._project(x)
        q, k, v = (split_heads(part, self.heads) for part in parts)
        rates = self._rates(q.dtype)
        before = (None, None, None) if past is None else past[:3]
        retained, retention = causal_linear(
            q, k, v, before[0], -rates[None, :, None], mask, chunk=CHUNK
        )
        never = times.new_full((len(x),), NEVER)
        clock = clock_at(never if past is None else past.time, times)
        pairs = split_heads(of_time, 2 * len(self.periods))
        timed, time_sums = time_channel(
            *(pairs, clock[:, 1:], gaps(clock)), *self._gamma(), before[1], mask
        )
        place = torch.arange(x.shape[1], device=x.device)[None]
        if past is not None:
            place = past.count[:, None] + place
        rows = self._rows(place, q.dtype)[:, None]
        sums = None if before[2] is None else before[2][:, None]
        placed, position_sums = causal_linear(
            rows, rows / self._half, of_position[:, None], sums, mask=mask
        )
        channels = (
            join_heads(retained * (-rates).exp()[:, None, None]),
            self._time_mixed(*(part.transpose(1, 2) for part in (timed, pairs))).flatten(2),
            self._position_mixed(placed[:, 0], of_position),
        )
        return self._gated(u, channels), (retention, time_sums, position_sums[:, 0]), clock

    @property
    def _half(self) -> int:
        """The product of a sinusoid with itself, by which the position channel divides."""
        return self.table.shape[1] // 2

    def _project(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...], Tensor, Tensor]:
        """x (..., D) -> the gate, (q, k, v), and the values of time and position."""
        n, kind, dim = layer_norm(x, x.shape[-1:], eps=EPS), sum_type(x), x.shape[-1]
        parts = silu(self.inputs(n)).split([self.gate, dim, dim, dim], -1)
        of_time, of_position = self.values(n).to(kind).split([self.gate - 2 * dim, dim], -1)
        return parts[0], tuple(part.to(kind) for part in parts[1:]), of_time, of_position

    def _rates(self, kind: torch.dtype) -> Tensor:
        """g (H,), what retention forgets from event to event."""
        return (-softplus(self.rate.to(kind)).cumsum(0)).exp()

    def _gamma(self) -> tuple[Tensor, Tensor]:
        """log gamma and the periods, (R,) each."""
        return logsigmoid(self.forget.to(sum_type(self.forget))), self.periods

    def _rows(self, position: Tensor, kind: torch.dtype) -> Tensor:
        """Rows of the position channel (..., P)."""
        return position_rows(self.table.to(kind), position)

    def _time_mixed(self, read: Tensor, own: Tensor) -> Tensor:
        """What is read and the event's own value, (..., 2 R, d) each."""
        mixed: Tensor = read * self.time_read[:, None] + own * self.time_own[:, None]
        return mixed

    def _position_mixed(self, read: Tensor, own: Tensor) -> Tensor:
        """The same of the position channel, (..., D) each."""
        mixed: Tensor = read * self.position_read + own * self.position_own
        return mixed

    def _gated(self, u: Tensor, channels: tuple[Tensor, ...]) -> Tensor:
        """The three channels, normalised, through the gate u of all -> (..., D)."""
        normed = torch.cat([layer_norm(y, y.shape[-1:], eps=EPS) for y in channels], -1)
        return cast(Tensor, self.output(u * normed.to(u.dtype)))


def _times(ctx: Context) -> Tensor:
    if ctx.times is None:
        raise ValueError("fuxi-linear needs the events' times")
    return ctx.times
