"""ELASTIC (arXiv 2408.09380) in causal form: trained at every position, served as a state.

`elastic-paper` is the published, bidirectional form.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from longrec.mixers.base import Mixer
from longrec.mixers.dispatcher import MAX_CHUNK, DispatcherMixer, Forgetting
from longrec.mixers.dispatcher_memory import MemoryDispatcherMixer
from longrec.mixers.product_keys import check_memory
from longrec.models.common.base import SequenceModel, register_model
from longrec.models.common.checks import Targets, check_heads, check_shape, check_targets


@dataclass(frozen=True)
class ElasticConfig:
    """Settings of causal ELASTIC; see DispatcherMixer for what each does.

    The memory bank (memory_slots, a square number; 0: none) stands in the last layer: every
    memory_every events memory_topk slots are retrieved; memory_guard balances their use.
    """

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
    memory_slots: int = 0
    memory_topk: int = 8
    memory_every: int = 64
    memory_guard: bool = True
    targets: Targets = "next"

    def __post_init__(self) -> None:
        check_shape(self)
        check_targets("elastic", self.targets, causal=True)
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
        check_memory(self.memory_slots, self.memory_topk, self.dim)
        if self.memory_every < 1:
            raise ValueError(f"memory_every is {self.memory_every}; it must be at least 1")


@register_model("elastic")
class Elastic(SequenceModel):
    """Blocks of causal dispatcher attention over whole histories, without positions."""

    streaming = "exact"
    config_class = ElasticConfig

    def __init__(self, config: ElasticConfig, n_items: int) -> None:
        def mixer(last: bool) -> Mixer:
            remembers = last and config.memory_slots > 0
            make = (
                partial(
                    MemoryDispatcherMixer,
                    slots=config.memory_slots,
                    topk=config.memory_topk,
                    guard=config.memory_guard,
                    every=config.memory_every,
                )
                if remembers
                else DispatcherMixer
            )
            return make(
                config.dim,
                heads=config.heads,
                experts=config.experts,
                forgetting=config.forgetting,
                half_lives=(config.half_life_min, config.half_life_max),
                time_scale=config.time_scale,
                convolution=config.convolution,
                chunk=config.chunk,
            )

        mixers = [mixer(layer == config.layers - 1) for layer in range(config.layers)]
        super().__init__(
            n_items, mixers, config.dim, config.ffn_dim, config.dropout, config.targets
        )
        self.config = config
