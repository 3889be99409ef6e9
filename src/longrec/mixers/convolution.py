"""Short causal depthwise convolution: the sense of local order that linear mixers lack."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d


class ShortConvolution(nn.Module):
    """y_t = x_t + sum_{i<width} c_i * x_{t-i}, feature by feature.

    Its state is the last width - 1 inputs, (B, width - 1, D). Width 0 is the identity.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.weight = nn.Parameter(torch.empty(dim, width))
        if width:
            nn.init.uniform_(self.weight, -(width**-0.5), width**-0.5)

    @property
    def kept(self) -> int:
        """Events kept as state."""
        return max(self.width - 1, 0)

    def initial_state(self, batch: int) -> Tensor:
        """(batch, width - 1, D) of zeros."""
        return self.weight.new_zeros(batch, self.kept, self.weight.shape[0])

    def prefill(self, x: Tensor, past: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """x (B, T, D) after `past` -> outputs (B, T, D) and each row's state after its length."""
        if not self.width:
            return x, past
        longer = torch.cat([past.to(x.dtype), x], dim=1)
        # conv1d correlates, so the newest event takes the last weight of its window.
        kernel = self.weight.flip(1)[:, None].to(x.dtype)
        y = x + conv1d(longer.transpose(1, 2), kernel, groups=x.shape[2]).transpose(1, 2)
        if lengths is None:
            return y, longer[:, longer.shape[1] - self.kept :]
        ends = lengths[:, None] + torch.arange(self.kept, device=x.device)
        return y, longer.gather(1, ends[:, :, None].expand(-1, -1, x.shape[2]))

    def step(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, D) after `past` -> (B, D) and the new state."""
        if not self.width:
            return x, past
        longer = torch.cat([past, x[:, None]], dim=1)
        return x + (longer * self.weight.flip(1).t()).sum(1), longer[:, 1:]

    def define(self, x: Tensor) -> Tensor:
        """x (T, D) -> (T, D), event by event."""
        rows = []
        for t in range(len(x)):
            y = x[t]
            for i in range(min(self.width, t + 1)):
                y = y + self.weight[:, i] * x[t - i]
            rows.append(y)
        return torch.stack(rows)

    def define_state(self, x: Tensor) -> Tensor:
        """The state after x (T, D), with a batch axis: (1, width - 1, D)."""
        return torch.cat([x.new_zeros(self.kept, x.shape[1]), x])[len(x) :][None]
