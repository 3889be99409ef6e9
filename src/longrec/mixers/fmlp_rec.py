"""FMLP-Rec's learnt filter (WWW 2022, arXiv 2202.13556): a product by frequency and feature.

    y = irfft(W * rfft(x))        W (N // 2 + 1, D), complex

along a window of N places whose last is the last event, with zeros in front. That is a circular
convolution as wide as the window: the first events follow the last one. So it is not causal, and N
is fixed. The residual and the norm around it are the model's. O(N log N D), however short the
history.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from longrec.mixers.base import EMPTY, Context, Mixer, register_mixer
from longrec.ops.filters import filter_window
from longrec.ops.sums import sum_type
from longrec.ops.windows import at_end, from_end


@register_mixer("fmlp-rec")
class FilterMixer(Mixer):
    """FMLP-Rec's filter of a window by frequencies, not causal.

    Parameters
    ----------
    dim : int
        Width D.
    max_length : int
        N, the places of the window: most events that can be read.
    """

    causal = False
    linear = False
    cost = "O(T log T D)"

    def __init__(self, dim: int, max_length: int = 200) -> None:
        super().__init__()
        self.max_length = self.places = max_length
        # Real and imaginary parts: optimisers and files need not know complex numbers.
        self.filter = nn.Parameter(torch.randn(max_length // 2 + 1, dim, 2) * 0.02)

    def forward(self, x: Tensor, ctx: Context = EMPTY) -> Tensor:
        if not x.shape[1]:
            return x
        window = at_end(x, ctx.lengths, self.places).to(sum_type(x))
        factor = torch.view_as_complex(self.filter.to(window.dtype))
        y = filter_window(window, lambda spectrum: spectrum * factor)
        return from_end(y, ctx.lengths, x.shape[1]).to(x.dtype)
