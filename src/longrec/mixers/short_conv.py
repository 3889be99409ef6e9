"""Short causal depthwise convolution: the sense of local order that linear mixers lack.

y_t = x_t + sum_{i<n} c_i * x_{t-i}        feature by feature
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from longrec.ops.short_conv import convolve_step, last_inputs, short_convolution


class ShortConvolution(nn.Module):
    """The weights c of a short convolution, and its state: the last n - 1 inputs, (B, n - 1, D).

    Before projections it is a part of them (`longrec.ops.heads.into_heads`); elsewhere `forward`
    applies it. A width n of 0 is the identity.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.weight = nn.Parameter(torch.empty(dim, width))
        if width:
            nn.init.uniform_(self.weight, -(width**-0.5), width**-0.5)

    @property
    def kernel(self) -> Tensor | None:
        """c (n, D); None for the identity."""
        return self.weight.t() if self.width else None

    def forward(self, x: Tensor, past: Tensor | None = None) -> Tensor:
        """x (B, T, D) that follows `past`, none being zeros -> (B, T, D)."""
        kernel = self.kernel
        return x if kernel is None else short_convolution(x, past, kernel)

    def initial_state(self, batch: int) -> Tensor:
        """(batch, n - 1, D) of zeros."""
        return self.weight.new_zeros(batch, max(self.width - 1, 0), self.weight.shape[0])

    def state_after(self, x: Tensor, past: Tensor, lengths: Tensor | None) -> Tensor:
        """The state after x (B, T, D) that follows `past`, of each row after its length."""
        return last_inputs(x, past, lengths) if self.width else past

    def step(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, D) after `past` -> (B, D) and the new state."""
        return convolve_step(x, past, self.weight.t()) if self.width else (x, past)
