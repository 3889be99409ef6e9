"""ELASTIC as published (arXiv 2408.09380): bidirectional, experts from the memory bank.

    P^0 = memory bank(masked mean of the embedded history)     k slots are the first experts
    Y, P^{l+1} = dispatcher(X^l, P^l)                           in each of the blocks

The experts' gatherings P are the next layer's experts. X goes on with residuals and feed-forward
networks. Trained on masked items, or on sampled prefixes (targets=last).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, cast

import torch
from torch import Tensor, nn

from longrec.core.bounds import Bounds
from longrec.mixers.base import Context
from longrec.mixers.dispatcher_bidirectional import BidirectionalDispatcherMixer
from longrec.mixers.product_keys import InterestMemory, check_memory
from longrec.models.common.blocks import Block
from longrec.models.common.config import WIDEST, AttentionConfig, Targets
from longrec.models.common.positions import Recency
from longrec.models.common.registry import register_model
from longrec.models.common.sequence import SequenceModel
from longrec.ops.sums import sum_type


@dataclass(frozen=True)
class ElasticPaperConfig(AttentionConfig):
    """Settings of ELASTIC as published.

    Attributes
    ----------
    experts : learnt interest queries, the same for all, where memory_slots is 0.
    memory_slots : slots of the memory bank, a square number; 0: no bank.
    memory_topk : slots that a history asks for: its experts.
    memory_guard : whether the use of slots is balanced.
    expert_residual : whether a layer's experts are added to what replaces them.
    """

    experts: Annotated[int, Bounds(ge=1, le=WIDEST)] = 16
    memory_slots: Annotated[int, Bounds(le=2**24)] = 4096
    memory_topk: Annotated[int, Bounds(le=2**24)] = 16
    memory_guard: bool = True
    expert_residual: bool = False
    targets: Targets = "masked"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_memory(self.memory_slots, self.memory_topk, self.dim)


@register_model("elastic-paper")
class ElasticPaper(SequenceModel):
    """Blocks of bidirectional dispatcher attention, whose first experts come from a memory bank."""

    paper = "arXiv 2408.09380"
    causal = False
    streaming = "none"
    streams_as = "elastic"
    config_class = ElasticPaperConfig

    def __init__(self, config: ElasticPaperConfig, n_items: int) -> None:
        mixers = [
            BidirectionalDispatcherMixer(config.dim, config.heads, experts=0)
            for _ in range(config.layers)
        ]
        super().__init__(config, n_items, mixers)
        self.positions = Recency(config.dim)
        self.memory: InterestMemory | None = None
        if config.memory_slots:
            self.memory = InterestMemory(
                config.dim, config.memory_slots, config.memory_topk, config.memory_guard
            )
        else:
            self.experts = nn.Parameter(torch.randn(config.experts, config.dim))

    def embed(self, items: Tensor, ctx: Context, masked: Tensor | None = None) -> Tensor:
        x = super().embed(items, ctx, masked)
        positions: Tensor = self.positions(items.shape[1], ctx.lengths, items.device)
        return x + positions

    def through_blocks(self, x: Tensor, ctx: Context, masked: Tensor | None = None) -> Tensor:
        experts, mask = self._first_experts(x, ctx.mask(x), masked), ctx.key_mask(x)
        for block in cast(list[Block], self.blocks):
            mixer = cast(BidirectionalDispatcherMixer, block.mixer)
            mixed, gathered = mixer.dispatch(block.before(x), experts, mask)
            x = block.after(x, mixed)
            experts = experts + gathered if self.config.expert_residual else gathered
        return x

    def _first_experts(self, x: Tensor, mask: Tensor | None, masked: Tensor | None) -> Tensor:
        """P^0 (B, R, D), of the events of x (B, T, D) that are real and not masked."""
        if self.memory is None:
            return self.experts.expand(len(x), -1, -1)
        seen = torch.ones_like(x[..., 0], dtype=torch.bool) if mask is None else mask
        if masked is not None:
            seen = seen & ~masked
        total = (x * seen[..., None]).sum(1, dtype=sum_type(x))
        mean = total / seen.sum(1, keepdim=True).clamp_min(1)
        return self.memory.vectors(self.memory(mean.to(x.dtype)))
