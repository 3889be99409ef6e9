"""HydraRec (arXiv 2501.01242): blocks of Hydra attention.

`hydrarec` is causal, trained as SASRec is and served as a state. `hydrarec-bidirectional` is the
published form, trained with masked events as BERT4Rec is. Both read histories of any length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from longrec.core.bounds import Bounds
from longrec.mixers.base import Context
from longrec.mixers.hydra import BidirectionalHydraMixer, HydraMixer
from longrec.models.common.config import FeedForwardConfig, Targets
from longrec.models.common.positions import Recency
from longrec.models.common.registry import register_model
from longrec.models.common.sequence import SequenceModel
from longrec.ops.hydra import Normalise


@dataclass(frozen=True)
class HydraRecConfig(FeedForwardConfig):
    """Settings of causal HydraRec; normalise="none" with convolution=0 is the paper's mixer.

    Attributes
    ----------
    normalise : what the sum over events is divided by: its root mean square, their count, nothing.
    convolution : events of the short convolution before the projections; 0: none.
    """

    normalise: Normalise = "rms"
    convolution: Annotated[int, Bounds(ge=0, le=1024)] = 4


@register_model("hydrarec")
class HydraRec(SequenceModel):
    """Blocks of causal Hydra attention over whole histories, without positions."""

    paper = "arXiv 2501.01242"
    streaming = "exact"
    config_class = HydraRecConfig

    def __init__(self, config: HydraRecConfig, n_items: int) -> None:
        mixers = [
            HydraMixer(config.dim, config.normalise, config.convolution)
            for _ in range(config.layers)
        ]
        super().__init__(config, n_items, mixers)


@dataclass(frozen=True)
class HydraRecBidirectionalConfig(FeedForwardConfig):
    """Settings of bidirectional HydraRec; normalise="none" is the paper's mixer.

    Attributes
    ----------
    normalise : what the sum over events is divided by: its root mean square, their count, nothing.
    """

    normalise: Normalise = "rms"
    targets: Targets = "masked"


@register_model("hydrarec-bidirectional")
class HydraRecBidirectional(SequenceModel):
    """Blocks of bidirectional Hydra attention over whole histories, masked events."""

    paper = "arXiv 2501.01242"
    causal = False
    streaming = "none"
    streams_as = "hydrarec"
    config_class = HydraRecBidirectionalConfig

    def __init__(self, config: HydraRecBidirectionalConfig, n_items: int) -> None:
        mixers = [
            BidirectionalHydraMixer(config.dim, config.normalise) for _ in range(config.layers)
        ]
        super().__init__(config, n_items, mixers)
        self.recency = Recency(config.dim)

    def embed(self, items: Tensor, ctx: Context, masked: Tensor | None = None) -> Tensor:
        recency: Tensor = self.recency(items.shape[1], ctx.lengths, items.device)
        return super().embed(items, ctx, masked) + recency
