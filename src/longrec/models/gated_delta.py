"""Gated DeltaNet (arXiv 2412.06464) as a recommender: blocks of the gated delta rule.

The paper trains language models; it has no recipe for a log, so there are no paper settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from longrec.core.bounds import Bounds
from longrec.mixers.gated_delta import GatedDeltaMixer
from longrec.models.common.config import AttentionConfig
from longrec.models.common.registry import register_model
from longrec.models.common.sequence import SequenceModel


@dataclass(frozen=True)
class GatedDeltaConfig(AttentionConfig):
    """Settings of Gated DeltaNet.

    Attributes
    ----------
    convolution : events of the convolution of queries, keys and values; 0: none.
    """

    convolution: Annotated[int, Bounds(ge=0, le=1024)] = 4


@register_model("gated-delta")
class GatedDelta(SequenceModel):
    """Blocks of the gated delta rule over whole histories: a newer value replaces an older one."""

    paper = "arXiv 2412.06464"
    streaming = "exact"
    config_class = GatedDeltaConfig

    def __init__(self, config: GatedDeltaConfig, n_items: int) -> None:
        mixers = [
            GatedDeltaMixer(config.dim, config.heads, config.convolution)
            for _ in range(config.layers)
        ]
        super().__init__(config, n_items, mixers)
