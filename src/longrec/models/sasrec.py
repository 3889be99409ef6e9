"""SASRec (arXiv 1808.09781): self-attention over the last events.

`sasrec` has the paper's learnt absolute positions and window. `sasrec-rotary` replaces both by
rotary positions within a band, so that it reads histories of any length and streams exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated

from longrec.core.bounds import Bounds
from longrec.mixers.banded import BandedMixer
from longrec.mixers.softmax import SoftmaxMixer
from longrec.models.common.config import LONGEST, AttentionConfig, WindowedConfig, check_rotary
from longrec.models.common.registry import register_model
from longrec.models.common.sequence import SequenceModel
from longrec.models.common.windowed import WindowedModel


@dataclass(frozen=True)
class SASRecConfig(WindowedConfig):
    """Settings of SASRec; `max_length` is the paper's n, the events it reads."""


@register_model("sasrec")
class SASRec(WindowedModel):
    """Blocks of causal softmax attention with absolute positions counted from the last event."""

    paper = "arXiv 1808.09781"
    paper_settings = MappingProxyType(
        {"dim": 50, "heads": 1, "ffn_dim": 50, "loss": "bce", "batch_tokens": 25_600}
    )
    streams_as = "sasrec-rotary"
    config_class = SASRecConfig

    def __init__(self, config: SASRecConfig, n_items: int) -> None:
        mixers = [SoftmaxMixer(config.dim, config.heads) for _ in range(config.layers)]
        super().__init__(config, n_items, mixers)


@dataclass(frozen=True)
class SASRecRotaryConfig(AttentionConfig):
    """Settings of the streaming variant.

    Attributes
    ----------
    band : events that a layer reads.
    """

    band: Annotated[int, Bounds(ge=1, le=LONGEST)] = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rotary(self.dim, self.heads)


@register_model("sasrec-rotary")
class SASRecRotary(SequenceModel):
    """Blocks of rotary softmax attention within a band, streaming through a key/value ring."""

    paper = "arXiv 1808.09781"
    streaming = "exact"
    config_class = SASRecRotaryConfig

    def __init__(self, config: SASRecRotaryConfig, n_items: int) -> None:
        mixers = [BandedMixer(config.dim, config.heads, config.band) for _ in range(config.layers)]
        super().__init__(config, n_items, mixers)
