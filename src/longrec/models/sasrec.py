"""SASRec (arXiv 1808.09781): self-attention over the last events.

`sasrec` has the paper's learnt absolute positions and window. `sasrec-rotary` replaces both by
rotary positions within a band, so that it reads histories of any length and streams exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

from longrec.mixers.banded import BandedMixer
from longrec.mixers.base import Mixer
from longrec.mixers.softmax import SoftmaxMixer
from longrec.models.common.base import SequenceModel, register_model
from longrec.models.common.checks import Targets, check_heads, check_shape, check_targets
from longrec.models.common.windowed import WindowedModel


@dataclass(frozen=True)
class SASRecConfig:
    """Settings of SASRec; `max_length` is the paper's n, the events it reads."""

    dim: int = 64
    layers: int = 2
    heads: int = 2
    ffn_dim: int = 256
    dropout: float = 0.2
    max_length: int = 200
    targets: Targets = "next"

    def __post_init__(self) -> None:
        check_shape(self)
        check_targets("sasrec", self.targets, causal=True)
        check_heads(self.dim, self.heads)
        if self.max_length < 1:
            raise ValueError(f"max_length is {self.max_length}; it must be at least 1")


@register_model("sasrec")
class SASRec(WindowedModel):
    """Blocks of causal softmax attention with absolute positions counted from the last event."""

    streams_as = "sasrec-rotary"
    config_class = SASRecConfig

    def __init__(self, config: SASRecConfig, n_items: int) -> None:
        mixers: list[Mixer] = [SoftmaxMixer(config.dim, config.heads) for _ in range(config.layers)]
        super().__init__(config, n_items, mixers)


@dataclass(frozen=True)
class SASRecRotaryConfig:
    """Settings of the streaming variant; `band` is the number of events that a layer reads."""

    dim: int = 64
    layers: int = 2
    heads: int = 2
    ffn_dim: int = 256
    dropout: float = 0.2
    band: int = 200
    targets: Targets = "next"

    def __post_init__(self) -> None:
        check_shape(self)
        check_targets("sasrec-rotary", self.targets, causal=True)
        check_heads(self.dim, self.heads)
        if self.dim // self.heads % 2:
            raise ValueError(f"dim / heads is {self.dim // self.heads}; rotary needs it even")
        if self.band < 1:
            raise ValueError(f"band is {self.band}; it must be at least 1")


@register_model("sasrec-rotary")
class SASRecRotary(SequenceModel):
    """Blocks of rotary softmax attention within a band, streaming through a key/value ring."""

    streaming = "exact"
    config_class = SASRecRotaryConfig

    def __init__(self, config: SASRecRotaryConfig, n_items: int) -> None:
        mixers: list[Mixer] = [
            BandedMixer(config.dim, config.heads, config.band) for _ in range(config.layers)
        ]
        super().__init__(
            n_items, mixers, config.dim, config.ffn_dim, config.dropout, config.targets
        )
        self.config = config
