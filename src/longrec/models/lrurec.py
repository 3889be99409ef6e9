"""LRURec (arXiv 2310.02367): blocks of linear recurrent units, norms behind what they norm.

Of the paper is the block, with GELU behind both layers of its feed-forward network; its released
code has the first of them alone, and biases in B and C, which the paper's equations do not have.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

from torch import Tensor, nn

from longrec.mixers.base import Context, Mixer
from longrec.mixers.lru import LRUMixer
from longrec.models.common.blocks import PostNormBlock
from longrec.models.common.config import FeedForwardConfig
from longrec.models.common.registry import register_model
from longrec.models.common.sequence import SequenceModel


@dataclass(frozen=True)
class LRURecConfig(FeedForwardConfig):
    """Settings of LRURec: `ffn_dim` is the paper's where it is 4 `dim`."""


class LRUBlock(PostNormBlock):
    """norm(x + LRU(x)), then norm(x + GELU(W2 GELU(W1 x)))."""

    def __init__(self, mixer: Mixer, config: LRURecConfig) -> None:
        super().__init__(mixer, config)
        self.ffn.append(nn.GELU())


@register_model("lrurec")
class LRURec(SequenceModel):
    """Blocks of linear recurrent units over whole histories, and a bias of each item."""

    paper = "arXiv 2310.02367"
    # 128 rows of up to 200 events, Adam's usual decay, and a learning rate that never changes.
    paper_settings = MappingProxyType(
        {"batch_tokens": 25_600, "beta2": 0.999, "warmup_steps": 0, "clip": 5.0}
    )
    streaming = "exact"
    config_class = LRURecConfig

    def __init__(self, config: LRURecConfig, n_items: int) -> None:
        mixers = [LRUMixer(config.dim) for _ in range(config.layers)]
        super().__init__(config, n_items, mixers, block=LRUBlock, bias=True)
        self.first_norm, self.norm = nn.LayerNorm(config.dim), nn.Identity()

    def embed(self, items: Tensor, ctx: Context, masked: Tensor | None = None) -> Tensor:
        return cast(Tensor, self.first_norm(super().embed(items, ctx, masked)))
