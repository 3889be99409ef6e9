"""Mamba4Rec (arXiv 2403.03900): Mamba layers and feed-forward networks, norms behind both.

A single layer has no way past its mixer, as the authors' code has it; stacked ones do.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, cast

import torch
from torch import Tensor, nn

from longrec.core.bounds import Bounds
from longrec.mixers.base import Context, Mixer
from longrec.mixers.mamba import MambaMixer
from longrec.models.common.blocks import PostNormBlock
from longrec.models.common.config import FeedForwardConfig
from longrec.models.common.registry import register_model
from longrec.models.common.sequence import SequenceModel


@dataclass(frozen=True)
class Mamba4RecConfig(FeedForwardConfig):
    """Settings of Mamba4Rec; `ffn_dim` is the paper's where it is 4 `dim`.

    Attributes
    ----------
    places : numbers that each channel of a Mamba layer keeps of a history.
    convolution : events of the short convolution before them.
    expand : channels of a Mamba layer, as a multiple of `dim`.
    """

    places: Annotated[int, Bounds(ge=1, le=1024)] = 32
    convolution: Annotated[int, Bounds(ge=1, le=1024)] = 4
    expand: Annotated[int, Bounds(ge=1, le=64)] = 2


class MambaBlock(PostNormBlock):
    """norm(x + Mamba(x)), without the first x where it is the only layer; then the network."""

    def __init__(self, mixer: Mixer, config: Mamba4RecConfig) -> None:
        super().__init__(mixer, config)
        self.stacked = config.layers > 1

    def after(self, x: Tensor, mixed: Tensor) -> Tensor:
        return super().after(x if self.stacked else torch.zeros_like(x), mixed)


@register_model("mamba4rec")
class Mamba4Rec(SequenceModel):
    """Blocks of Mamba's selective state space over whole histories, without positions."""

    paper = "arXiv 2403.03900"
    # A batch has 2,048 targets: the paper cuts a history into one row for each of its targets.
    paper_settings = MappingProxyType(
        {"layers": 1, "batch_tokens": 2048, "beta2": 0.999, "warmup_steps": 0, "weight_decay": 0.0}
    )
    streaming = "exact"
    config_class = Mamba4RecConfig

    def __init__(self, config: Mamba4RecConfig, n_items: int) -> None:
        mixers = [
            MambaMixer(config.dim, config.places, config.convolution, config.expand)
            for _ in range(config.layers)
        ]
        super().__init__(config, n_items, mixers, block=MambaBlock)
        self.first_norm, self.norm = nn.LayerNorm(config.dim), nn.Identity()

    def embed(self, items: Tensor, ctx: Context, masked: Tensor | None = None) -> Tensor:
        return cast(Tensor, self.first_norm(super().embed(items, ctx, masked)))
