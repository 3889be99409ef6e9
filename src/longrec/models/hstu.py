"""HSTU (arXiv 2402.17152): gated SiLU attention alone, and cosine scores over a temperature.

    x = dropout(sqrt(D) E[item] + position)
    x = x + W_o dropout(mixer(norm(x))) + b_o                                      in each block
    score(t, i) = cos(x_t, E_i) / .05

There is no feed-forward network, and no norm behind the last block, since a cosine has none to
lose. The paper's equations have no position but attention's bias; the authors' code adds learnt
ones, always, and so do we: without them nothing tells a window's end from its middle.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, cast

from torch import Tensor, nn

from longrec.core.bounds import Bounds
from longrec.mixers.base import Mixer
from longrec.mixers.hstu import HSTUMixer
from longrec.models.common.blocks import Block, Dropout
from longrec.models.common.config import WIDEST, LastEventsConfig, check_heads
from longrec.models.common.cosine import CosineModel
from longrec.models.common.registry import register_model
from longrec.models.common.windowed import WindowedModel


@dataclass(frozen=True)
class HSTUConfig(LastEventsConfig):
    """Settings of HSTU.

    Attributes
    ----------
    heads : parts of the width that attend alone, a divisor of `dim`.
    time_bias : whether attention reads the time between events, which the log must then have.
    """

    heads: Annotated[int, Bounds(ge=1, le=WIDEST)] = 2
    time_bias: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self.dim, self.heads)


class HSTUBlock(Block):
    """x + W_o dropout(mixer(norm(x))) + b_o, with a norm without a gain."""

    def __init__(self, mixer: Mixer, config: HSTUConfig) -> None:
        super().__init__(mixer, config)
        self.before = nn.LayerNorm(config.dim, eps=1e-6, elementwise_affine=False)
        self.dropout = Dropout(config.dropout)
        self.output = nn.Linear(config.dim, config.dim)

    def after(self, x: Tensor, mixed: Tensor) -> Tensor:
        return x + cast(Tensor, self.output(self.dropout(mixed)))


@register_model("hstu")
class HSTU(CosineModel, WindowedModel):
    """Blocks of gated SiLU attention with biases by distance and time, cosine scores."""

    paper = "arXiv 2402.17152"
    paper_settings = MappingProxyType(
        {
            **{"dim": 50, "heads": 1, "loss": "sampled", "negatives": 128},
            **{"batch_tokens": 25_600, "weight_decay": 0.0, "warmup_steps": 0, "average": 0.0},
            **{"max_epochs": 101},
        }
    )
    streams_as = "sasrec-rotary"
    without_times = "time_bias=false"
    config_class = HSTUConfig

    def __init__(self, config: HSTUConfig, n_items: int) -> None:
        mixers = [
            HSTUMixer(config.dim, config.heads, config.max_length, config.time_bias)
            for _ in range(config.layers)
        ]
        super().__init__(config, n_items, mixers, block=HSTUBlock)
