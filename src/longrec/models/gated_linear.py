"""RecGRELA (arXiv 2506.13315), causal: blocks of gated rotary linear attention.

As published it is bidirectional within a prefix of up to 200 events and trained on the item after
each prefix, a row per prefix; here it is causal, reads whole histories and is trained on every next
item at once. The released code drops whole layers at random (.1), which is left out, and normalises
after the embedding instead of before the scores. On a GPU with the package causal_conv1d it puts a
SiLU on the convolution, without that package none: here there is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated

from torch import nn

from longrec.core.bounds import Bounds
from longrec.mixers import Mixer
from longrec.mixers.gated_linear import GatedLinearMixer
from longrec.models.common.blocks import FeedForwardBlock
from longrec.models.common.config import AttentionConfig, FeedForwardConfig, check_rotary
from longrec.models.common.registry import register_model
from longrec.models.common.sequence import SequenceModel


@dataclass(frozen=True)
class GatedLinearConfig(AttentionConfig):
    """Settings of gated rotary linear attention.

    Attributes
    ----------
    convolution : events of the convolution of values; 0: none.
    """

    convolution: Annotated[int, Bounds(ge=0, le=1024)] = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rotary(self.dim, self.heads)


class GatedLinearBlock(FeedForwardBlock):
    """x + mixer(x), whose norm is inside of the mixer, then x + ffn(norm(x))."""

    def __init__(self, mixer: Mixer, config: FeedForwardConfig) -> None:
        super().__init__(mixer, config)
        self.before = nn.Identity()


@register_model("gated-linear")
class GatedLinear(SequenceModel):
    """Blocks of gated rotary linear attention over whole histories, RecGRELA made causal."""

    paper = "arXiv 2506.13315"
    paper_settings = MappingProxyType(
        {
            "layers": 4,
            "heads": 4,
            "dropout": 0.1,
            "weight_decay": 0.0,
            # Its batch is 2,048 prefixes with a target each; here each event is a target.
            "batch_tokens": 2048,
            "context": 200,
            "max_epochs": 300,
            "patience": 20,
        }
    )
    streaming = "exact"
    config_class = GatedLinearConfig

    def __init__(self, config: GatedLinearConfig, n_items: int) -> None:
        mixers = [
            GatedLinearMixer(config.dim, config.heads, config.convolution)
            for _ in range(config.layers)
        ]
        super().__init__(config, n_items, mixers, block=GatedLinearBlock)
