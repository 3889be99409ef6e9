"""HydraRec (arXiv 2501.01242): blocks of Hydra attention.

`hydrarec` is causal, trained as SASRec is and served as a state. `hydrarec-bidirectional` is the
published form, trained with masked events as BERT4Rec is. Both read histories of any length.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from longrec.mixers.base import Context, Mixer
from longrec.mixers.hydra import HydraMixer
from longrec.mixers.hydra_bidirectional import BidirectionalHydraMixer
from longrec.models.common.base import SequenceModel, register_model
from longrec.models.common.checks import Targets, check_shape, check_targets
from longrec.models.common.positions import Recency
from longrec.ops.hydra import Normalise


@dataclass(frozen=True)
class HydraRecConfig:
    """Settings of causal HydraRec; normalise="none" with convolution=0 is the paper's mixer."""

    dim: int = 64
    layers: int = 2
    ffn_dim: int = 256
    dropout: float = 0.2
    normalise: Normalise = "rms"
    convolution: int = 4
    targets: Targets = "next"

    def __post_init__(self) -> None:
        check_shape(self)
        check_targets("hydrarec", self.targets, causal=True)
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
        super().__init__(
            n_items, mixers, config.dim, config.ffn_dim, config.dropout, config.targets
        )
        self.config = config


@dataclass(frozen=True)
class HydraRecBidirectionalConfig:
    """Settings of bidirectional HydraRec; normalise="none" is the paper's mixer."""

    dim: int = 64
    layers: int = 2
    ffn_dim: int = 256
    dropout: float = 0.2
    normalise: Normalise = "rms"
    targets: Targets = "masked"

    def __post_init__(self) -> None:
        check_shape(self)
        check_targets("hydrarec-bidirectional", self.targets, causal=False)


@register_model("hydrarec-bidirectional")
class HydraRecBidirectional(SequenceModel):
    """Blocks of bidirectional Hydra attention over whole histories, masked events."""

    streaming = "none"
    streams_as = "hydrarec"
    config_class = HydraRecBidirectionalConfig

    def __init__(self, config: HydraRecBidirectionalConfig, n_items: int) -> None:
        mixers: list[Mixer] = [
            BidirectionalHydraMixer(config.dim, config.normalise) for _ in range(config.layers)
        ]
        super().__init__(
            n_items, mixers, config.dim, config.ffn_dim, config.dropout, config.targets
        )
        self.config = config
        self.recency = Recency(config.dim)

    def embed(self, items: Tensor, ctx: Context, masked: Tensor | None = None) -> Tensor:
        recency: Tensor = self.recency(items.shape[1], ctx.lengths, items.device)
        return super().embed(items, ctx, masked) + recency
