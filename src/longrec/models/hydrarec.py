"""HydraRec (arXiv 2501.01242), causal: blocks of Hydra attention trained as SASRec is."""

from __future__ import annotations

from dataclasses import dataclass

from longrec.mixers.base import Mixer
from longrec.mixers.hydra import HydraMixer, Normalise
from longrec.models.base import SequenceModel, register_model
from longrec.models.checks import check_shape


@dataclass(frozen=True)
class HydraRecConfig:
    """Settings of causal HydraRec; normalise="none" with convolution=0 is the paper's mixer."""

    dim: int = 64
    layers: int = 2
    ffn_dim: int = 256
    dropout: float = 0.2
    normalise: Normalise = "rms"
    convolution: int = 4

    def __post_init__(self) -> None:
        check_shape(self)
        if self.convolution < 0:
            raise ValueError(f"convolution is {self.convolution}; it must be at least 0")


@register_model("hydrarec")
class HydraRec(SequenceModel):
    """Blocks of causal Hydra attention over whole histories, without positions."""

    streaming = "exact"
    config_class = HydraRecConfig

    def __init__(self, config: HydraRecConfig, n_items: int) -> None:
        mixers: list[Mixer] = [
            HydraMixer(config.dim, config.normalise, config.convolution)
            for _ in range(config.layers)
        ]
        super().__init__(n_items, mixers, config.dim, config.ffn_dim, config.dropout)
        self.config = config
