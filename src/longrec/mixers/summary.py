"""Rotary softmax attention within a segment, and to the summaries of the segments before it.

PerSRec (arXiv 2601.03479). What this mixer reads are places: behind every S events stand N summary
tokens, which the model (longrec.models.persrec) puts there. Which places see which is told in
longrec.ops.summary. Keys and queries are turned by their places (RoFormer, arXiv 2104.09864), as
they are in the language model of the paper's second form, so that no table bounds the length.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from longrec.mixers.base import EMPTY, Context, State, StreamingMixer, register_mixer
from longrec.ops.attention import rotate
from longrec.ops.heads import join_heads, split_heads
from longrec.ops.summary import Layout, summary_attention, summary_attention_after


class SummaryState(NamedTuple):
    """What is kept of B histories.

    pairs : (B, K N + S + N, 2 D), keys, already rotated, and values: of the tokens of the last K
    whole periods, oldest first, then of the places since; 0 where there are none. count : (B,)
    int64, places so far.
    """

    pairs: Tensor
    count: Tensor  # type: ignore[assignment]  # over tuple.count


@register_mixer("summary")
class SummaryMixer(StreamingMixer):
    """Rotary softmax attention within a segment and to the summary tokens of the last K ones.

    Parameters
    ----------
    dim : int
        Width D.
    heads : int
        Heads H; D / H must be even.
    segment, tokens, summaries : int
        S events, N tokens behind them, and of how many segments before they are read, K.
    """

    linear = True
    cost = "O(T (S + K N) D)"

    def __init__(
        self, dim: int, heads: int = 2, segment: int = 128, tokens: int = 4, summaries: int = 8
    ) -> None:
        super().__init__()
        self.heads, self.layout = heads, Layout(segment, tokens, summaries)
        self.inputs = nn.Linear(dim, 3 * dim, bias=False)
        self.output = nn.Linear(dim, dim, bias=False)

    def initial_state(self, batch: int) -> SummaryState:
        weight = self.output.weight
        return SummaryState(
            weight.new_zeros(batch, self.layout.slots, 2 * len(weight)),
            torch.zeros(batch, dtype=torch.int64, device=weight.device),
        )

    def forward(self, x: Tensor, ctx: Context = EMPTY) -> Tensor:
        # Padding stands at the end, where no real place ever looks.
        q, k, v = self._projected(x, torch.arange(x.shape[1], device=x.device))
        return cast(Tensor, self.output(join_heads(summary_attention(q, k, v, self.layout))))

    def prefill(self, x: Tensor, state: State, ctx: Context = EMPTY) -> tuple[Tensor, State]:
        past = cast(SummaryState, state)
        lengths, outputs = ctx.lengths, []
        if lengths is None:
            lengths = torch.full_like(past.count, x.shape[1])
        for part in x.split(self.layout.period, 1):
            real = lengths.clamp(0, part.shape[1])
            y, past = self._continued(part, past, real)
            outputs.append(y)
            lengths = lengths - real
        return torch.cat(outputs, 1) if outputs else x, past

    def step(self, x: Tensor, state: State, ctx: Context = EMPTY) -> tuple[Tensor, State]:
        past = cast(SummaryState, state)
        y, new = self._continued(x[:, None], past, torch.ones_like(past.count))
        return y[:, 0], new

    def _continued(
        self, x: Tensor, past: SummaryState, lengths: Tensor
    ) -> tuple[Tensor, SummaryState]:
        """At most a period of places x (B, T, D) at once."""
        place = past.count[:, None] + torch.arange(x.shape[1], device=x.device)
        q, k, v = self._projected(x, place[:, None])
        new = torch.cat([join_heads(k), join_heads(v)], 2)
        y, pairs = summary_attention_after(
            *(q, new, past.pairs, past.count, lengths), layout=self.layout
        )
        return self.output(join_heads(y)), SummaryState(pairs, past.count + lengths)

    def _projected(self, x: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, T, D) -> q, k, v, each (B, H, T, d), the first two turned by their places."""
        q, k, v = (split_heads(part, self.heads) for part in self.inputs(x).chunk(3, dim=-1))
        return rotate(q, place), rotate(k, place), v
