"""cosFormer (arXiv 2202.08791): blocks of linear attention weighted by the cosine of distances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from longrec.core.bounds import Bounds
from longrec.mixers.cosformer import CosformerMixer
from longrec.models.common.config import LONGEST, LinearAttentionConfig
from longrec.models.common.registry import register_model
from longrec.models.common.sequence import SequenceModel


@dataclass(frozen=True)
class CosformerConfig(LinearAttentionConfig):
    """Settings of cosFormer.

    Attributes
    ----------
    reach : the paper's M, events over which the weight of distances falls from 1 to 0; those after
        the first M stand at one place. No history's numbers depend on another's length.
    """

    reach: Annotated[int, Bounds(ge=1, le=LONGEST)] = 512


@register_model("cosformer")
class Cosformer(SequenceModel):
    """Blocks of causal linear attention (relu, cosine of distances) over whole histories."""

    paper = "arXiv 2202.08791"
    streaming = "exact"
    config_class = CosformerConfig

    def __init__(self, config: CosformerConfig, n_items: int) -> None:
        mixers = [
            CosformerMixer(config.dim, config.heads, config.reach, config.convolution)
            for _ in range(config.layers)
        ]
        super().__init__(config, n_items, mixers)
