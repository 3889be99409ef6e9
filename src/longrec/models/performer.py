"""Performer (arXiv 2009.14794): blocks of softmax attention by positive random features.

The authors draw features anew in the course of training. Here they are drawn once, by the run's
seed, and saved with the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated

from longrec.core.bounds import Bounds
from longrec.mixers.performer import PerformerMixer
from longrec.models.common.config import WIDEST, LinearAttentionConfig
from longrec.models.common.registry import register_model
from longrec.models.common.sequence import SequenceModel


@dataclass(frozen=True)
class PerformerConfig(LinearAttentionConfig):
    """Settings of Performer.

    Attributes
    ----------
    features : random features of each head: more of them are closer to softmax attention.
    """

    features: Annotated[int, Bounds(ge=1, le=WIDEST)] = 64


@register_model("performer")
class Performer(SequenceModel):
    """Blocks of causal softmax attention by random features, over whole histories."""

    paper = "arXiv 2009.14794"
    paper_settings = MappingProxyType({"features": 256})
    streaming = "exact"
    config_class = PerformerConfig

    def __init__(self, config: PerformerConfig, n_items: int) -> None:
        mixers = [
            PerformerMixer(config.dim, config.heads, config.features, config.convolution)
            for _ in range(config.layers)
        ]
        super().__init__(config, n_items, mixers)
