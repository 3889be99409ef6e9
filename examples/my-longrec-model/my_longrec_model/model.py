"""A model of blocks around linear attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from longrec.core.bounds import Bounds
from longrec.models import SequenceModel, register_model
from longrec.models.common.config import AttentionConfig
from my_longrec_model.linear_attention import LinearAttentionMixer


@dataclass(frozen=True)
class LinearAttentionConfig(AttentionConfig):
    """Settings of linear attention, besides those of every model with heads.

    Attributes
    ----------
    chunk : events that are read at once; it changes the speed alone.
    """

    chunk: Annotated[int, Bounds(ge=1)] = 64


@register_model("linear-attention")
class LinearAttention(SequenceModel):
    """Blocks of linear attention that forgets, over whole histories."""

    paper = "arXiv 2006.16236"
    streaming = "exact"
    config_class = LinearAttentionConfig

    def __init__(self, config: LinearAttentionConfig, n_items: int) -> None:
        mixers = [
            LinearAttentionMixer(config.dim, config.heads, config.chunk)
            for _ in range(config.layers)
        ]
        super().__init__(config, n_items, mixers)
