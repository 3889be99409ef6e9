"""BERT4Rec (arXiv 1904.06690): bidirectional self-attention trained to fill in masked events."""

from __future__ import annotations

from dataclasses import dataclass

from longrec.mixers.softmax import BidirectionalSoftmaxMixer
from longrec.models.common.config import Targets, WindowedConfig
from longrec.models.common.registry import register_model
from longrec.models.common.windowed import WindowedModel


@dataclass(frozen=True)
class BERT4RecConfig(WindowedConfig):
    """Settings of BERT4Rec; `max_length` is the most events it reads, a mask after them apart."""

    targets: Targets = "masked"


@register_model("bert4rec")
class BERT4Rec(WindowedModel):
    """Blocks of bidirectional softmax attention with absolute positions, masked events."""

    paper = "arXiv 1904.06690"
    causal = False
    streams_as = "sasrec-rotary"
    config_class = BERT4RecConfig

    def __init__(self, config: BERT4RecConfig, n_items: int) -> None:
        mixers = [BidirectionalSoftmaxMixer(config.dim, config.heads) for _ in range(config.layers)]
        super().__init__(config, n_items, mixers)
