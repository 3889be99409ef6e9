"""Linformer (arXiv 2006.04768) over the last events, trained with masked events as BERT4Rec is.

The paper trains language models with masked words and has no recommender; here its attention stands
in the place of BERT4Rec's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from longrec.core.bounds import Bounds
from longrec.mixers.linformer import LinformerMixer
from longrec.models.common.config import WIDEST, Targets, WindowedConfig
from longrec.models.common.registry import register_model
from longrec.models.common.windowed import WindowedModel, places_of


@dataclass(frozen=True)
class LinformerConfig(WindowedConfig):
    """Settings of Linformer; `max_length` is the paper's n.

    Attributes
    ----------
    rank : sums of the window's events that stand for them, the paper's k.
    """

    rank: Annotated[int, Bounds(ge=1, le=WIDEST)] = 20
    targets: Targets = "masked"


@register_model("linformer")
class Linformer(WindowedModel):
    """Blocks of attention to a few learnt sums of the last events, masked events."""

    paper = "arXiv 2006.04768"
    causal = False
    streams_as = "hydrarec"
    config_class = LinformerConfig

    def __init__(self, config: LinformerConfig, n_items: int) -> None:
        mixers = [
            LinformerMixer(config.dim, config.heads, config.rank, places_of(config))
            for _ in range(config.layers)
        ]
        super().__init__(config, n_items, mixers)
