"""A gated recurrent unit (arXiv 1406.1078), which GRU4Rec (arXiv 1511.06939) reads sessions with.

The equations are in `longrec.ops.gru`. Events go one after the other, since each gate reads the
state that the event before left; torch's fused form does that without Python between events.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from longrec.mixers.base import EMPTY, Context, State, StreamingMixer, register_mixer
from longrec.ops.gru import gru_step
from longrec.ops.sums import sum_type


class GRUState(NamedTuple):
    """What a gated recurrent unit keeps of B histories.

    hidden : (B, D), h after the last event, in float32 at least.
    """

    hidden: Tensor


@register_mixer("gru")
class GRUMixer(StreamingMixer):
    """A gated recurrent unit, event after event.

    Parameters
    ----------
    dim : int
        Width D, of inputs and of h.
    """

    linear = True
    cost = "O(T D²)"

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gru = nn.GRU(dim, dim, batch_first=True)

    def initial_state(self, batch: int) -> GRUState:
        weight = self._weights()[0]
        zeros = torch.zeros(batch, self.gru.hidden_size, dtype=sum_type(weight))
        return GRUState(zeros.to(weight.device))

    def prefill(self, x: Tensor, state: State, ctx: Context = EMPTY) -> tuple[Tensor, State]:
        past = cast(GRUState, state)
        if not x.shape[1]:
            return x, past
        hidden = past.hidden
        weights = self._weights(hidden.dtype)
        with torch.autocast(x.device.type, enabled=False):
            before = hidden[None].contiguous()
            y, last = torch.gru(
                x.to(hidden.dtype),
                before,
                weights,
                has_biases=True,
                num_layers=1,
                dropout=0.0,
                train=self.training,
                bidirectional=False,
                batch_first=True,
            )
        if ctx.lengths is None:
            return y.to(x.dtype), GRUState(last[0])
        # The state is that after each row's own last event, and the old one where it has none.
        end = y[torch.arange(len(y), device=y.device), (ctx.lengths - 1).clamp_min(0)]
        return y.to(x.dtype), GRUState(torch.where((ctx.lengths > 0)[:, None], end, hidden))

    def step(self, x: Tensor, state: State, ctx: Context = EMPTY) -> tuple[Tensor, State]:
        hidden = cast(GRUState, state).hidden
        w, u, b, c = self._weights(hidden.dtype)
        new = gru_step(x.to(hidden.dtype), hidden, w, b, u, c)
        return new.to(x.dtype), GRUState(new)

    def _weights(self, kind: torch.dtype | None = None) -> list[Tensor]:
        """W, U, b and c, as torch orders them, in the type of the state."""
        return [weight.to(kind or weight.dtype) for weight in self.gru.parameters()]
