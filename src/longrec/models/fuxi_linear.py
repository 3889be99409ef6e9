"""FuXi-Linear (arXiv 2602.23671): channels of retention, time and position in linear time.

    x'  = x + mixer(x)                                       the norm is inside of the mixer
    x'' = x' + W_2 (silu(W_1 r) * W_3 r)                     r = dropout(rmsnorm(x'))
    score(t, i) = cos(x_t, E_i) / .05

This is the strict form: nothing is known of the time at which the next item is asked for. The
published numbers are of the other one, where the time of the next event is given.

Where the released code differs: it also adds a learnt vector per position to the input, drops
features before W_0 instead of what W_0 gives, learns gamma in the first layer alone or not at all
(here in each), and can leave out the time channel's own value (here it is always there). Its time
channel over a whole history, without chunks, reads an attribute that is never set, and its state is
never kept from call to call.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, cast

from torch import Tensor, nn
from torch.nn.functional import rms_norm, silu

from longrec.core.bounds import Bounds
from longrec.mixers import Mixer
from longrec.mixers.fuxi_linear import EPS, START, FuXiLinearMixer
from longrec.models.common.blocks import Block, Dropout
from longrec.models.common.config import LONGEST, WIDEST, AttentionConfig
from longrec.models.common.cosine import CosineModel
from longrec.models.common.registry import register_model

LONGEST_PERIOD = 2**62


@dataclass(frozen=True)
class FuXiLinearConfig(AttentionConfig):
    """Settings of FuXi-Linear.

    Attributes
    ----------
    heads : heads of retention, a divisor of `dim`: each remembers longer than the one before.
    periods : periods of the time channel, each with two heads that share `dim`, rounded up.
    base : what a period is times the one before, the first being 1 second.
    positions : events of a history whose row of positions is learnt; later ones have sinusoids.
    position_dim : numbers of such a row, even.
    """

    heads: Annotated[int, Bounds(ge=1, le=WIDEST)] = 8
    periods: Annotated[int, Bounds(ge=1, le=62)] = 8
    base: Annotated[int, Bounds(ge=2, le=WIDEST)] = 16
    positions: Annotated[int, Bounds(ge=1, le=LONGEST)] = 1024
    position_dim: Annotated[int, Bounds(ge=2, le=WIDEST)] = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.base ** (self.periods - 1) > LONGEST_PERIOD:
            raise ValueError(
                f"base is {self.base} and periods is {self.periods}; the longest period, base to "
                f"the power of periods - 1, must be at most 2^62 seconds"
            )
        if self.position_dim % 2:
            raise ValueError(f"position_dim is {self.position_dim}; pairs of waves need it even")


class FuXiBlock(Block):
    """x + mixer(x), then x + a gated feed-forward network without biases."""

    def __init__(self, mixer: Mixer, config: AttentionConfig) -> None:
        super().__init__(mixer, config)
        dim, hidden = config.dim, config.ffn_dim
        self.dropout = Dropout(config.dropout)
        self.ffn_inputs = nn.Linear(dim, 2 * hidden, bias=False)
        self.ffn_output = nn.Linear(hidden, dim, bias=False)
        for part in (self.ffn_inputs, self.ffn_output):
            nn.init.normal_(part.weight, std=START)

    def after(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + cast(Tensor, self.dropout(mixed))
        r = self.dropout(rms_norm(x, x.shape[-1:], eps=EPS))
        gate, value = self.ffn_inputs(r).chunk(2, -1)
        return x + cast(Tensor, self.ffn_output(silu(gate) * value))


@register_model("fuxi-linear")
class FuXiLinear(CosineModel):
    """Channels of retention, time and position over whole histories, cosine scores."""

    paper = "arXiv 2602.23671"
    paper_settings = MappingProxyType(
        {  # those of MovieLens 20M: four batches of 256 histories at once
            **{"dim": 256, "layers": 8, "learning_rate": 4e-3, "loss": "sampled"},
            **{"negatives": 128, "batch_tokens": 204_800, "context": 200, "positions": 200},
            **{"weight_decay": 0.0, "warmup_steps": 0, "average": 0.0, "max_epochs": 101},
        }
    )
    streaming = "exact"
    config_class = FuXiLinearConfig

    def __init__(self, config: FuXiLinearConfig, n_items: int) -> None:
        mixers = [
            FuXiLinearMixer(
                *(config.dim, config.heads, config.periods, config.base),
                *(config.positions, config.position_dim),
            )
            for _ in range(config.layers)
        ]
        super().__init__(config, n_items, mixers, block=FuXiBlock)
