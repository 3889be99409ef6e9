"""Factorization-heads attention as a mixer: DFAR (arXiv 2302.03965); formulas in ops."""

from __future__ import annotations

from torch import Tensor, nn

from longrec.mixers.base import EMPTY, Context, Mixer, register_mixer
from longrec.ops.factorization_heads import factorization_heads
from longrec.ops.heads import split_heads

POSITIVE, READ = "positive", "read"
"""Columns that a model of mixed feedback makes: which events are positive, and which are read."""


@register_mixer("factorization-heads")
class FactorizationHeadsMixer(Mixer):
    """Causal attention in which every head of an event reads every head of the others.

    A model of mixed feedback says by `Context.columns` what is positive, (B, T) bool under
    `POSITIVE`, so that pairs of heads are kept for pairs of feedback, and which events are read,
    under `READ`. Without them all pairs of heads read all events.

    Parameters
    ----------
    dim : int
        Width D.
    heads : int
        Heads H, a divisor of D; even where feedback is told apart.
    """

    causal = True
    linear = False
    cost = "O(T² D H)"

    def __init__(self, dim: int, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.inputs = nn.Linear(dim, 3 * dim, bias=False)
        self.output = nn.Linear(heads * dim, dim, bias=False)

    def forward(self, x: Tensor, ctx: Context = EMPTY) -> Tensor:
        columns = ctx.columns or {}
        q, k, v = (split_heads(part, self.heads) for part in self.inputs(x).chunk(3, -1))
        # Padding stands at the end: no real event ever looks at it.
        mixed = factorization_heads(q, k, v, columns.get(POSITIVE), columns.get(READ))
        y: Tensor = self.output(mixed)
        return y
