"""HSTU (arXiv 2402.17152): gated SiLU attention alone, and cosine scores over a temperature.

    x = x + W_o dropout(mixer(norm(x))) + b_o
    score(t, i) = cos(x_t, E_i) / .05

There is no feed-forward network, and no norm behind the last block, since a cosine has none to
lose. The released code also adds learnt absolute positions to its input; here, as the paper writes
it, distance is told by the bias of attention alone.
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
from longrec.models.common.config import LONGEST, WIDEST, SequenceConfig, check_heads
from longrec.models.common.cosine import CosineModel
from longrec.models.common.registry import register_model


@dataclass(frozen=True)
class HSTUConfig(SequenceConfig):
    """Settings of HSTU.

    Attributes
    ----------
    heads : parts of the width that attend alone, a divisor of `dim`.
    max_length : most events that are read, a mask after them apart.
    time_bias : whether attention reads the time between events, which the log must then have.
    """

    heads: Annotated[int, Bounds(ge=1, le=WIDEST)] = 2
    max_length: Annotated[int, Bounds(ge=1, le=LONGEST)] = 200
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
class HSTU(CosineModel):
    """Blocks of gated SiLU attention with biases by distance and time, cosine scores."""

    paper = "arXiv 2402.17152"
    paper_settings = MappingProxyType(
        {
            **{"dim": 50, "heads": 1, "loss": "sampled", "negatives": 128},
            **{"batch_tokens": 25_600, "weight_decay": 0.0, "warmup_steps": 0, "average": 0.0},
            **{"max_epochs": 101},
        }
    )
    streaming = "windowed"
    streams_as = "sasrec-rotary"
    without_times = "time_bias=false"
    config_class = HSTUConfig

    def __init__(self, config: HSTUConfig, n_items: int) -> None:
        mixers = [
            HSTUMixer(config.dim, config.heads, config.max_length, config.time_bias)
            for _ in range(config.layers)
        ]
        super().__init__(config, n_items, mixers, block=HSTUBlock)
        self.max_length = config.max_length

    @property
    def cost(self) -> str:
        """That of the last W = `max_length` events."""
        return super().cost.replace("T", "W")
