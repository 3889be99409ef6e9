"""What models are stacked of: a mixer, a feed-forward network, and dropout on what each adds."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from longrec.mixers import Context, Mixer

BITS = 16
"""Random bits per number dropped or kept."""


class Block(nn.Module):
    """x + mixer(norm(x)), then x + ffn(norm(x)), with dropout on what is added."""

    def __init__(self, mixer: Mixer, dim: int, ffn_dim: int, dropout: float) -> None:
        super().__init__()
        self.mixer: Mixer = mixer
        self.before = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)
        self.ffn = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, ffn_dim), nn.GELU(), nn.Linear(ffn_dim, dim)
        )

    def after(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Add what the mixer gave, then the feed-forward network's output."""
        x = x + self.dropout(mixed)
        return x + cast(Tensor, self.dropout(self.ffn(x)))

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        """x (B, T, D) -> (B, T, D)."""
        return self.after(x, self.mixer(self.before(x), ctx))


class Dropout(nn.Module):
    """Dropout as torch's, with 16 random bits per number where torch on a CPU draws two doubles.

    A number is dropped with a chance that is the nearest multiple of 2^-16.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """x, of which a share p is 0 in training and the rest is scaled by 1 / (1 - p)."""
        dropped = round(self.p * 2**BITS)
        if not self.training or not dropped:
            return x
        if x.device.type != "cpu":
            return torch.nn.functional.dropout(x, self.p)
        words = torch.empty(-(-x.numel() * BITS // 64), dtype=torch.int64)
        bits = words.random_(-(2**63), None).view(torch.int16)[: x.numel()].view(x.shape)
        factor = torch.mul(bits >= dropped - 2 ** (BITS - 1), 2**BITS / (2**BITS - dropped))
        return x * factor.to(x.dtype)

    def extra_repr(self) -> str:
        return f"p={self.p}"
