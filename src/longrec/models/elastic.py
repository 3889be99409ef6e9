"""ELASTIC (arXiv 2408.09380) in causal form: trained at every position, served as a state.

`elastic-paper` is the published, bidirectional form.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any

from longrec.core.bounds import MOST, Bounds
from longrec.mixers.dispatcher import MAX_CHUNK, DispatcherMixer, Forgetting
from longrec.mixers.dispatcher_memory import MemoryDispatcherMixer
from longrec.mixers.product_keys import check_memory
from longrec.models.common.config import WIDEST, AttentionConfig
from longrec.models.common.registry import register_model
from longrec.models.common.sequence import SequenceModel


@dataclass(frozen=True)
class ElasticConfig(AttentionConfig):
    """Settings of causal ELASTIC, whose memory bank, if wanted, stands in the last layer.

    Attributes
    ----------
    experts : interest queries of each head.
    forgetting : by the count of events, by the time between them, or not at all.
    half_life_min : events, the shortest half-life of an expert before training.
    half_life_max : events, the longest half-life of an expert before training.
    time_scale : seconds that forgetting by time counts as a short gap.
    convolution : events of the short convolution before the projections; 0: none.
    chunk : events computed at once: speed alone.
    memory_slots : slots of the memory bank, a square number; 0: no bank.
    memory_topk : slots that are retrieved at a time.
    memory_every : events from one retrieval to the next.
    memory_guard : whether the use of slots is balanced.
    """

    experts: Annotated[int, Bounds(ge=1, le=WIDEST)] = 16
    forgetting: Forgetting = "events"
    half_life_min: Annotated[float, Bounds(gt=0)] = 3.0
    half_life_max: Annotated[float, Bounds(gt=0)] = 3000.0
    time_scale: Annotated[float, Bounds(gt=0)] = 3600.0
    convolution: Annotated[int, Bounds(ge=0, le=1024)] = 4
    chunk: Annotated[int, Bounds(ge=1, le=MAX_CHUNK)] = 32
    memory_slots: Annotated[int, Bounds(le=2**24)] = 0
    memory_topk: Annotated[int, Bounds(le=2**24)] = 8
    memory_every: Annotated[int, Bounds(ge=1, le=MOST)] = 64
    memory_guard: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.half_life_min > self.half_life_max:
            raise ValueError(
                f"half_life_min is {self.half_life_min}; it must be at most half_life_max, "
                f"which is {self.half_life_max}"
            )
        check_memory(self.memory_slots, self.memory_topk, self.dim)


@register_model("elastic")
class Elastic(SequenceModel):
    """Blocks of causal dispatcher attention over whole histories, without positions."""

    paper = "arXiv 2408.09380"
    streaming = "exact"
    without_times = "forgetting=events"
    settings_with_times = MappingProxyType({"gaps": True})
    config_class = ElasticConfig

    def __init__(self, config: ElasticConfig, n_items: int) -> None:
        shared: dict[str, Any] = {
            "heads": config.heads,
            "experts": config.experts,
            "forgetting": config.forgetting,
            "half_lives": (config.half_life_min, config.half_life_max),
            "time_scale": config.time_scale,
            "convolution": config.convolution,
            "chunk": config.chunk,
        }
        plain_layers = config.layers - 1 if config.memory_slots else config.layers
        mixers = [DispatcherMixer(config.dim, **shared) for _ in range(plain_layers)]
        if config.memory_slots:
            mixers.append(
                MemoryDispatcherMixer(
                    config.dim,
                    slots=config.memory_slots,
                    topk=config.memory_topk,
                    balance=config.memory_guard,
                    every=config.memory_every,
                    **shared,
                )
            )
        super().__init__(config, n_items, mixers)
