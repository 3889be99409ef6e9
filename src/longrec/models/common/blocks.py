"""What models are stacked of: blocks, each around one mixer, and their dropout."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from longrec.mixers import Context, Mixer, State, StreamingMixer
from longrec.models.common.config import FeedForwardConfig, SequenceConfig

NORM_EPS = 1e-12
"""What BERT and those after it add to the variance in norms after each part."""
BITS = 16
"""Random bits per number dropped or kept."""


class Block(nn.Module):
    """A layer around a mixer: what stands before it and after it. Here nothing does.

    Parameters
    ----------
    mixer : Mixer
    config : SequenceConfig
        The model's.

    Attributes
    ----------
    before : what x goes through before the mixer.
    """

    def __init__(self, mixer: Mixer, config: Any) -> None:
        super().__init__()
        self.mixer: Mixer = mixer
        self.before: nn.Module = nn.Identity()

    def after(self, x: Tensor, mixed: Tensor) -> Tensor:
        """What the layer makes of its input and of what the mixer gave, both (..., D)."""
        return mixed

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        """x (B, T, D) -> (B, T, D)."""
        return self.after(x, self.mixer(self.before(x), ctx))

    def prefill(self, x: Tensor, state: State, ctx: Context) -> tuple[Tensor, State]:
        """x (B, T, D) that follows a state -> (B, T, D) and the state after it."""
        mixed, new = cast(StreamingMixer, self.mixer).prefill(self.before(x), state, ctx)
        return self.after(x, mixed), new

    def step(self, x: Tensor, state: State, ctx: Context) -> tuple[Tensor, State]:
        """The same for one event of each history, x (B, D)."""
        mixed, new = cast(StreamingMixer, self.mixer).step(self.before(x), state, ctx)
        return self.after(x, mixed), new


class ResidualBlock(Block):
    """x + mixer(norm(x)), with dropout on what is added, and no feed-forward network."""

    def __init__(self, mixer: Mixer, config: SequenceConfig) -> None:
        super().__init__(mixer, config)
        self.before = nn.LayerNorm(config.dim)
        self.dropout = Dropout(config.dropout)

    def after(self, x: Tensor, mixed: Tensor) -> Tensor:
        return x + cast(Tensor, self.dropout(mixed))


class FeedForwardBlock(ResidualBlock):
    """x + mixer(norm(x)), then x + ffn(norm(x)), with dropout on what is added."""

    def __init__(self, mixer: Mixer, config: FeedForwardConfig) -> None:
        super().__init__(mixer, config)
        dim, hidden = config.dim, config.ffn_dim
        self.ffn = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim)
        )

    def after(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = super().after(x, mixed)
        return x + cast(Tensor, self.dropout(self.ffn(x)))


class PostNormBlock(Block):
    """norm(x + mixer(x)), then norm(x + ffn(x)), with dropout on what is added: BERT's block."""

    def __init__(self, mixer: Mixer, config: FeedForwardConfig) -> None:
        super().__init__(mixer, config)
        dim, hidden = config.dim, config.ffn_dim
        self.dropout = Dropout(config.dropout)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.ffn = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        self.ffn_norm = nn.LayerNorm(dim, eps=NORM_EPS)

    def after(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = self.norm(x + self.dropout(mixed))
        return cast(Tensor, self.ffn_norm(x + self.dropout(self.ffn(x))))


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
