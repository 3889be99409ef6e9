"""PerSRec (arXiv 2601.03479): the past is a few summary tokens, learnt for all users alike.

Behind every segment of S events stand N tokens. They go through all layers as events do, read their
segment, and are all that later events see of it, together with those of the K - 1 segments before.
A history of two segments is read as in the paper. Of more segments the paper keeps all tokens; here
the last K are kept, so that a user is a state of fixed size: keys and values of K N tokens, and of
what came since the last multiple of S events. So a history may be cut anywhere.

Blocks are the frame of docs/models.md with rotary positions, which the paper's language model has;
its other form has HSTU's blocks. The released code trains the last event of a segment to predict a
token; here, as in the paper, it predicts the next item, and tokens predict nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated

import torch
from torch import Tensor, nn

from longrec.core.bounds import Bounds
from longrec.mixers.base import EMPTY, Context, State
from longrec.mixers.summary import SummaryMixer
from longrec.models.common.config import LONGEST, AttentionConfig, check_rotary
from longrec.models.common.registry import register_model
from longrec.models.common.sequence import SequenceModel, UserState


@dataclass(frozen=True)
class PerSRecConfig(AttentionConfig):
    """Settings of PerSRec.

    Attributes
    ----------
    segment : events that a summary is made of; the one that goes on is read event by event.
    tokens : summary tokens of a segment.
    summaries : earlier segments whose summaries are read.
    """

    segment: Annotated[int, Bounds(ge=1, le=LONGEST)] = 128
    tokens: Annotated[int, Bounds(ge=1, le=1024)] = 4
    summaries: Annotated[int, Bounds(ge=1, le=1024)] = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rotary(self.dim, self.heads)


@register_model("persrec")
class PerSRec(SequenceModel):
    """Blocks of softmax attention within a segment and to learnt summaries of earlier ones."""

    paper = "arXiv 2601.03479"
    paper_settings = MappingProxyType(
        {
            **{"layers": 16, "heads": 8, "dropout": 0.5, "segment": 1024},
            **{"batch_tokens": 10_240, "weight_decay": 0.0, "loss": "sampled"},
        }
    )
    streaming = "exact"
    config_class = PerSRecConfig

    def __init__(self, config: PerSRecConfig, n_items: int) -> None:
        layout = config.segment, config.tokens, config.summaries
        mixers = [SummaryMixer(config.dim, config.heads, *layout) for _ in range(config.layers)]
        super().__init__(config, n_items, mixers)
        self.segment = config.segment
        self.tokens = nn.Parameter(torch.randn(config.tokens, config.dim) * 0.02)

    def through_blocks(self, x: Tensor, ctx: Context, masked: Tensor | None = None) -> Tensor:
        batch, events, _ = x.shape
        closed = (events - 1) // self.segment  # segments with events behind them
        if not closed:
            return super().through_blocks(x, EMPTY)
        whole, rest = x.split([closed * self.segment, events - closed * self.segment], 1)
        segments = whole.unflatten(1, (closed, self.segment))
        tokens = self._scaled_tokens(x).expand(batch, closed, -1, -1)
        places = torch.cat([segments, tokens], 2).flatten(1, 2)
        y = super().through_blocks(torch.cat([places, rest], 1), EMPTY)
        whole, rest = y.split([places.shape[1], rest.shape[1]], 1)
        segments = whole.unflatten(1, (closed, -1))[:, :, : self.segment]
        return torch.cat([segments.flatten(1, 2), rest], 1)

    def prefill_blocks(
        self, x: Tensor, state: UserState, ctx: Context
    ) -> tuple[Tensor, tuple[State, ...]]:
        """As `through_blocks`; a segment that is full gets its tokens with its last event."""
        (batch, events, dim), segment = x.shape, self.segment
        tokens = self._scaled_tokens(x)
        begun = (state.count % segment)[:, None]  # events of each user's segment so far
        lengths = torch.full_like(state.count, events) if ctx.lengths is None else ctx.lengths
        longest = events + len(tokens) * ((segment - 1 + events) // segment)
        place = begun + torch.arange(longest, device=x.device)
        period, inside = place // (segment + len(tokens)), place % (segment + len(tokens))
        event = (period * segment + inside - begun).clamp_max(events - 1)
        source = torch.where(inside < segment, event, events + inside - segment)
        both = torch.cat([x, tokens.expand(batch, -1, -1)], 1)
        places = both.gather(1, source[..., None].expand(-1, -1, dim))
        real = lengths + len(tokens) * ((begun[:, 0] + lengths) // segment)
        y, layers = super().prefill_blocks(places, state, Context(real))
        number = torch.arange(events, device=x.device)
        at = number + len(tokens) * ((begun + number) // segment)
        return y.gather(1, at[..., None].expand(-1, -1, dim)), layers

    def step_blocks(
        self, x: Tensor, state: UserState, ctx: Context
    ) -> tuple[Tensor, tuple[State, ...]]:
        """The same for one event, with room for the tokens: a recorded step has no branches."""
        y, layers = self.prefill_blocks(x[:, None], state, EMPTY)
        return y[:, 0], layers

    def _scaled_tokens(self, x: Tensor) -> Tensor:
        """(N, D), as `embed` scales items."""
        tokens: Tensor = self.tokens * self.scale
        return tokens.to(x.dtype)
