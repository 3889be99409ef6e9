"""eSASRec (arXiv 2508.06450): SASRec with LiGR blocks, trained by sampled softmax.

LiGR's blocks (arXiv 2502.03417) pass what is added through a gate of the block's own input, and
their feed-forward network is SwiGLU:

    x = x + sigmoid(W_1 x + b_1) * attention(norm(x))
    x = x + sigmoid(W_2 x + b_2) * W_o (silu(W_g norm(x)) * W_v norm(x))

The released code ends with the last block; here the frame's norm follows it, as in SASRec. It
draws 256 negatives for each target, uniformly; here all targets of a batch share 256, which are
drawn by how often they occur and corrected for that.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

from torch import Tensor, nn
from torch.nn.functional import silu

from longrec.mixers.base import Mixer
from longrec.mixers.softmax import SoftmaxMixer
from longrec.models.common.blocks import Dropout, ResidualBlock
from longrec.models.common.config import WindowedConfig
from longrec.models.common.registry import register_model
from longrec.models.common.windowed import WindowedModel


@dataclass(frozen=True)
class ESASRecConfig(WindowedConfig):
    """Settings of eSASRec, those of SASRec."""


class LiGRBlock(ResidualBlock):
    """Attention, then SwiGLU, each passed through a gate of the block's input before it is added.

    Parameters
    ----------
    mixer : Mixer
    config : WindowedConfig
        Whose `ffn_dim` is the width inside SwiGLU.
    """

    def __init__(self, mixer: Mixer, config: WindowedConfig) -> None:
        super().__init__(mixer, config)
        dim, hidden = config.dim, config.ffn_dim
        self.gates = nn.ModuleList(nn.Linear(dim, dim) for _ in range(2))
        self.ffn_norm = nn.LayerNorm(dim)
        self.ffn_inputs = nn.Linear(dim, 2 * hidden, bias=False)
        self.ffn_dropout = Dropout(config.dropout)
        self.ffn_output = nn.Linear(hidden, dim, bias=False)

    def after(self, x: Tensor, mixed: Tensor) -> Tensor:
        of_attention, of_ffn = self.gates
        x = x + of_attention(x).sigmoid() * self.dropout(mixed)
        gate, value = self.ffn_inputs(self.ffn_norm(x)).chunk(2, -1)
        added = self.dropout(self.ffn_output(self.ffn_dropout(silu(gate) * value)))
        return x + cast(Tensor, of_ffn(x).sigmoid() * added)


@register_model("esasrec")
class ESASRec(WindowedModel):
    """SASRec with gated residual blocks and SwiGLU, for sampled softmax."""

    paper = "arXiv 2508.06450"
    paper_settings = MappingProxyType(
        {
            **{"heads": 1, "dropout": 0.1, "loss": "sampled", "negatives": 256},
            **{"batch_tokens": 25_600, "weight_decay": 0.0, "warmup_steps": 0, "average": 0.0},
            **{"max_epochs": 100, "patience": 50},
        }
    )
    streams_as = "sasrec-rotary"
    config_class = ESASRecConfig

    def __init__(self, config: ESASRecConfig, n_items: int) -> None:
        mixers = [SoftmaxMixer(config.dim, config.heads) for _ in range(config.layers)]
        super().__init__(config, n_items, mixers, block=LiGRBlock)
