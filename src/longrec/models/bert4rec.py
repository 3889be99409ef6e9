"""BERT4Rec (arXiv 1904.06690): bidirectional self-attention trained to fill in masked events."""

from __future__ import annotations

from dataclasses import dataclass

from longrec.mixers.base import Mixer
from longrec.mixers.softmax_bidirectional import BidirectionalSoftmaxMixer
from longrec.models.common.base import register_model
from longrec.models.common.checks import Targets, check_heads, check_shape, check_targets
from longrec.models.common.windowed import WindowedModel


@dataclass(frozen=True)
class BERT4RecConfig:
    """Settings of BERT4Rec; `max_length` is the most events it reads, a mask after them apart."""

    dim: int = 64
    layers: int = 2
    heads: int = 2
    ffn_dim: int = 256
    dropout: float = 0.2
    max_length: int = 200
    targets: Targets = "masked"

    def __post_init__(self) -> None:
        check_shape(self)
        check_heads(self.dim, self.heads)
        check_targets("bert4rec", self.targets, causal=False)
        if self.max_length < 1:
            raise ValueError(f"max_length is {self.max_length}; it must be at least 1")


@register_model("bert4rec")
class BERT4Rec(WindowedModel):
    """Blocks of bidirectional softmax attention with absolute positions, masked events."""

    streams_as = "sasrec-rotary"
    config_class = BERT4RecConfig

    def __init__(self, config: BERT4RecConfig, n_items: int) -> None:
        mixers: list[Mixer] = [
            BidirectionalSoftmaxMixer(config.dim, config.heads) for _ in range(config.layers)
        ]
        super().__init__(config, n_items, mixers)
