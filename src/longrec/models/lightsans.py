"""LightSANs (SIGIR 2021) over the last events, trained on prefixes that predict the next item.

One table of position vectors is read by all layers, apart from the items: nothing is added to the
embedding. Where the authors' code (and RecBole's) differs from this definition: it takes both
softmaxes of attention over the queries instead of the keys, masks no padding anywhere, and divides
the positions' scores by sqrt(2 d) once more. There blocks have the norm after each part; here they
are those of the other models.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, cast

from torch import Tensor

from longrec.core.bounds import Bounds
from longrec.mixers.base import Context
from longrec.mixers.lightsans import LightSANsMixer
from longrec.models.common.blocks import Block
from longrec.models.common.config import WIDEST, Targets, WindowedConfig
from longrec.models.common.registry import register_model
from longrec.models.common.sequence import SequenceModel
from longrec.models.common.windowed import WindowedModel


@dataclass(frozen=True)
class LightSANsConfig(WindowedConfig):
    """Settings of LightSANs.

    Attributes
    ----------
    interests : vectors that the history is pooled into, in each layer: the paper's k.
    """

    interests: Annotated[int, Bounds(ge=1, le=WIDEST)] = 20
    targets: Targets = "last"


@register_model("lightsans")
class LightSANs(WindowedModel):
    """Blocks of attention to pooled interests and, apart from them, to places."""

    paper = "SIGIR 2021, doi 10.1145/3404835.3462978"
    # Its settings for ML-1M; prefixes are as many as a history has.
    paper_settings = MappingProxyType(
        {
            "learning_rate": 3e-3,
            "batch_tokens": 204_800,
            "prefixes": 200,
            "beta2": 0.999,
            "weight_decay": 0.0,
            "warmup_steps": 0,
            "average": 0.0,
        }
    )
    causal = False
    streams_as = "elastic"
    config_class = LightSANsConfig

    def __init__(self, config: LightSANsConfig, n_items: int) -> None:
        mixers = [
            LightSANsMixer(config.dim, config.heads, config.interests, max_length=0)
            for _ in range(config.layers)
        ]
        super().__init__(config, n_items, mixers)

    def embed(self, items: Tensor, ctx: Context, masked: Tensor | None = None) -> Tensor:
        return SequenceModel.embed(self, items, ctx, masked)  # no positions: layers read them

    def through_blocks(self, x: Tensor, ctx: Context, masked: Tensor | None = None) -> Tensor:
        for block in cast(list[Block], self.blocks):
            mixer = cast(LightSANsMixer, block.mixer)
            x = block.after(x, mixer.attend(block.before(x), self.positions, ctx))
        return x
