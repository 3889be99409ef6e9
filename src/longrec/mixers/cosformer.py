"""cosFormer's attention (arXiv 2202.08791): events count less the further back they are.

    y_t = sum_{u<=t} s_tu v_u / sum_{u<=t} s_tu
    s_tu = <relu(q_t), relu(k_u)> cos(pi/2 (p_t - p_u) / M)

and cos(a - b) = cos a cos b + sin a sin b makes it a product of features. In the paper p_t = t, and
M is the most events; its code takes M from the batch's longest row, so that one history's numbers
depend on others. Here M is a setting, and

    p_t = min(t, M - 1)

Up to M events it is the paper's form. Past M no weight turns negative, as it would if the angle
went on: events from M on stand at one place, count fully for each other, and those before keep
their weights. Sums over p_t stay what they are, so that a stream goes on exactly.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor

from longrec.mixers.base import EMPTY, Context, State, register_mixer
from longrec.mixers.kernel import KernelMixer, KernelState
from longrec.ops.normalised import LARGEST, within


class CosformerState(NamedTuple):
    """What is kept of B histories: sums, and count (B,) int64 events so far."""

    kernel: KernelState
    count: Tensor  # type: ignore[assignment]  # over tuple.count


@register_mixer("cosformer")
class CosformerMixer(KernelMixer):
    """Causal linear attention with features relu, weighted by the cosine of the distance.

    Parameters
    ----------
    dim, heads, convolution
        As in KernelMixer.
    reach : int
        M, events from the first one to that from which places are told apart no more.
    """

    least = 1e-6  # of the paper's code: there may be no positive feature in common

    def __init__(self, dim: int, heads: int = 2, reach: int = 512, convolution: int = 4) -> None:
        super().__init__(dim, heads, convolution, features=2 * (dim // heads))
        self.reach = reach

    def initial_state(self, batch: int) -> CosformerState:  # type: ignore[override]
        count = torch.zeros(batch, dtype=torch.int64, device=self.output.weight.device)
        return CosformerState(super().initial_state(batch), count)

    def prefill(self, x: Tensor, state: State, ctx: Context = EMPTY) -> tuple[Tensor, State]:
        if not x.shape[1]:
            return x, state
        past = cast(CosformerState, state)
        position = past.count[:, None] + torch.arange(x.shape[1], device=x.device)
        y, kernel = self.mix(x, past.kernel, ctx, position)
        new = x.shape[1] if ctx.lengths is None else ctx.lengths
        return y, CosformerState(kernel, past.count + new)

    def step(self, x: Tensor, state: State, ctx: Context = EMPTY) -> tuple[Tensor, State]:
        past = cast(CosformerState, state)
        y, kernel = self.mix_step(x, past.kernel, past.count[:, None])
        return y, CosformerState(kernel, past.count + 1)

    def maps(self, q: Tensor, k: Tensor, position: Tensor | None) -> tuple[Tensor, Tensor]:
        assert position is not None
        place = position.clamp_max(self.reach - 1)[..., None].double()
        angle = place * (math.pi / 2 / self.reach)
        cos, sin = angle.cos().to(q.dtype), angle.sin().to(q.dtype)
        q, k = within(q, 0.0, LARGEST), within(k, 0.0, LARGEST)  # relu
        return torch.cat([q * cos, q * sin], -1), torch.cat([k * cos, k * sin], -1)
