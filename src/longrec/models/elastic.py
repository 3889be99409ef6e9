"""ELASTIC (arXiv 2408.09380) in causal form: trained at every position, served as a state."""

from __future__ import annotations

from dataclasses import dataclass

from longrec.mixers.base import Mixer
from longrec.mixers.dispatcher import MAX_CHUNK, DispatcherMixer, Forgetting
from longrec.models.base import SequenceModel, register_model
from longrec.models.checks import check_heads, check_shape


@dataclass(frozen=True)
class ElasticConfig:
    """Settings of causal ELASTIC; see DispatcherMixer for what each does."""

    dim: int = 64
    layers: int = 2
    heads: int = 2
    experts: int = 16
    ffn_dim: int = 256
    dropout: float = 0.2
    forgetting: Forgetting = "events"
    half_life_min: float = 3.0
    half_life_max: float = 3000.0
    time_scale: float = 3600.0
    convolution: int = 4
    chunk: int = 32

    def __post_init__(self) -> None:
        check_shape(self)
        check_heads(self.dim, self.heads)
        if self.experts < 1:
            raise ValueError(f"experts is {self.experts}; it must be at least 1")
        if not 1 <= self.chunk <= MAX_CHUNK:
            raise ValueError(f"chunk is {self.chunk}; it must lie in 1..{MAX_CHUNK}")
        if not 0 < self.half_life_min <= self.half_life_max:
            raise ValueError(
                f"half_life_min is {self.half_life_min} and half_life_max {self.half_life_max}; "
                "they must be positive and in this order"
            )
        if self.time_scale <= 0:
            raise ValueError(f"time_scale is {self.time_scale}; it must be above 0")
        if self.convolution < 0:
            raise ValueError(f"convolution is {self.convolution}; it must be at least 0")


@register_model("elastic")
class Elastic(SequenceModel):
    """Blocks of causal dispatcher attention over whole histories, without positions."""

    streaming = "exact"
    config_class = ElasticConfig

    def __init__(self, config: ElasticConfig, n_items: int) -> None:
        mixers: list[Mixer] = [
            DispatcherMixer(
                config.dim,
                heads=config.heads,
                experts=config.experts,
                forgetting=config.forgetting,
                half_lives=(config.half_life_min, config.half_life_max),
                time_scale=config.time_scale,
                convolution=config.convolution,
                chunk=config.chunk,
            )
            for _ in range(config.layers)
        ]
        super().__init__(n_items, mixers, config.dim, config.ffn_dim, config.dropout)
        self.config = config
