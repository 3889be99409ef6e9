"""LimaRec (arXiv 2105.14060): linear self-attention, and several interests read from its sums.

Only the paper's abstract was at hand: incremental linear self-attention, and several interests of a
user. What stands here is our reconstruction: blocks of the linear transformer, and after them K
learnt queries that read the history, each giving a vector of its own:

    u_tk = norm(x_t + W read_tk)
    score = max_k <u_tk, e_i>
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, cast

from torch import Tensor

from longrec.core.bounds import Bounds
from longrec.mixers import Mixer
from longrec.mixers.limarec import InterestMixer
from longrec.mixers.linear_transformer import LinearTransformerMixer
from longrec.models.common.blocks import Block, FeedForwardBlock, ResidualBlock
from longrec.models.common.config import LinearAttentionConfig
from longrec.models.common.registry import register_model
from longrec.models.common.sequence import SequenceModel


@dataclass(frozen=True)
class LimaRecConfig(LinearAttentionConfig):
    """Settings of LimaRec; a last block without a feed-forward network reads the interests.

    Attributes
    ----------
    interests : vectors of a user, of which the best one counts.
    """

    interests: Annotated[int, Bounds(ge=1, le=1024)] = 4


class InterestBlock(ResidualBlock):
    """x plus what each interest reads: (..., D) -> (..., K D)."""

    def after(self, x: Tensor, mixed: Tensor) -> Tensor:
        of_each = mixed.unflatten(-1, (-1, x.shape[-1]))
        return super().after(x[..., None, :], of_each).flatten(-2)


def _block(mixer: Mixer, config: LimaRecConfig) -> Block:
    if isinstance(mixer, InterestMixer):
        return InterestBlock(mixer, config)
    return FeedForwardBlock(mixer, config)


@register_model("limarec")
class LimaRec(SequenceModel):
    """Blocks of causal linear attention, read by learnt queries: several vectors of a user."""

    paper = "arXiv 2105.14060"
    paper_settings = MappingProxyType({"loss": "sampled"})
    streaming = "exact"
    config_class = LimaRecConfig

    def __init__(self, config: LimaRecConfig, n_items: int) -> None:
        mixers: list[Mixer] = [
            LinearTransformerMixer(config.dim, config.heads, config.convolution)
            for _ in range(config.layers)
        ]
        mixers.append(InterestMixer(config.dim, config.heads, config.interests))
        super().__init__(config, n_items, mixers, block=_block)
        self.width = config.interests * config.dim

    def readout(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.norm(x.unflatten(-1, (-1, self.config.dim)))).flatten(-2)

    def user_vectors(self, h: Tensor) -> Tensor:
        return cast(Tensor, h.unflatten(-1, (-1, self.config.dim)))
