"""WEARec's filter (AAAI 2026, arXiv 2511.07028): frequencies by the history's mean, and details.

Along a window of N places whose last is the last event, with zeros in front, and per head h:

    [s, c] = MLP(mean of the window)                       two numbers per head and frequency f
    global = irfft(rfft(x)_f * g_hf (1 + s_hf) + b_hf + c_hf)
    local  = one Haar level of x whose details are weighed by place and feature
    y      = alpha global + (1 - alpha) local

g starts at 1 and b at -.1. A window of an odd number of places gets one more in front, so that the
Haar level pairs the newest events. The residual and the norm around it are the model's.
O(N log N D), however short the history; not causal, and N is fixed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from longrec.mixers.base import EMPTY, Context, Mixer, register_mixer
from longrec.ops.filters import filter_window, haar_window
from longrec.ops.sums import sum_type
from longrec.ops.windows import at_end, from_end


@register_mixer("wearec")
class WaveletFilterMixer(Mixer):
    """WEARec's filter by frequencies that the history chooses, with a Haar level, not causal.

    Parameters
    ----------
    dim, heads : int
        Width D, heads H (a divisor of D), each with a filter of its own.
    alpha : float
        Share of what frequencies give; the Haar level has the rest.
    max_length : int
        N, the places of the window: most events that can be read.
    """

    causal = False
    linear = False
    cost = "O(T log T D)"
    undecayed = ("gain", "offset")

    def __init__(self, dim: int, heads: int = 2, alpha: float = 0.3, max_length: int = 200) -> None:
        super().__init__()
        self.heads, self.alpha, self.max_length = heads, alpha, max_length
        self.places = max_length + max_length % 2
        shape = (heads, self.places // 2 + 1)
        self.gain = nn.Parameter(torch.ones(shape))  # g
        self.offset = nn.Parameter(torch.full(shape, -0.1))  # b
        first, second = nn.Linear(dim, dim), nn.Linear(dim, 2 * shape[0] * shape[1])
        for part in (first, second):
            nn.init.normal_(part.weight, std=0.02)  # so that all histories' filters start alike
            nn.init.zeros_(part.bias)
        self.context = nn.Sequential(first, nn.GELU(), second)
        self.detail = nn.Parameter(torch.randn(self.places // 2, dim) * 0.02)

    def forward(self, x: Tensor, ctx: Context = EMPTY) -> Tensor:
        if not x.shape[1]:
            return x
        window = at_end(x, ctx.lengths, self.places)
        chosen = self.context(window.mean(1))
        window = window.to(sum_type(x))
        # (B, H F 2) -> (B, F, H, 1), to go with frequencies (B, F, H, d)
        chosen = chosen.to(window.dtype).unflatten(-1, (self.heads, -1, 2)).transpose(1, 2)
        scale, shift = chosen[..., None, 0], chosen[..., None, 1]
        gain = self.gain.t()[..., None].to(window.dtype) * (1 + scale)
        offset = self.offset.t()[..., None].to(window.dtype) + shift

        def change(spectrum: Tensor) -> Tensor:
            changed: Tensor = spectrum.unflatten(-1, (self.heads, -1)) * gain + offset
            return changed.flatten(2)

        local = haar_window(window, self.detail.to(window.dtype))
        y = self.alpha * filter_window(window, change) + (1 - self.alpha) * local
        return from_end(y, ctx.lengths, x.shape[1]).to(x.dtype)
