"""Softmax attention (Vaswani et al., arXiv 1706.03762), causal, in its fused form.

    y_t = sum_{u<=t} softmax_u(<q_t, k_u> / sqrt d) v_u

torch's scaled_dot_product_attention with is_causal and no dropout inside stores no T x T scores;
dropout inside it would send a CPU down the quadratic path, so models drop the output instead.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from longrec.mixers.base import Context, Mixer, State, join_heads, register_mixer, split_heads


@register_mixer("softmax")
class SoftmaxMixer(Mixer):
    """Causal softmax attention, O(T^2 D) operations and O(T D) memory.

    Parameters
    ----------
    dim : int
        Width D.
    heads : int
        Heads H, a divisor of D.
    """

    causal = True
    linear = False

    def __init__(self, dim: int, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.inputs = nn.Linear(dim, 3 * dim, bias=False)
        self.output = nn.Linear(dim, dim, bias=False)

    def mix(self, x: Tensor, ctx: Context) -> Tensor:
        q, k, v = (split_heads(part, self.heads) for part in self.inputs(x).chunk(3, dim=-1))
        # Padding stands at the end: when causal, no real event ever looks at it.
        mask = None if self.causal else ctx.key_mask(x)
        mixed = scaled_dot_product_attention(q, k, v, mask, is_causal=self.causal)
        y: Tensor = self.output(join_heads(mixed))
        return y

    def define(self, x: Tensor, times: Tensor | None = None) -> tuple[Tensor, State | None]:
        q, k, v = ((x @ w.t()).unflatten(-1, (self.heads, -1)) for w in self.inputs.weight.chunk(3))
        rows = []
        for t in range(len(x)):
            seen = t + 1 if self.causal else len(x)
            scores = torch.einsum("hd,uhd->uh", q[t], k[:seen]) / q.shape[-1] ** 0.5
            rows.append(torch.einsum("uh,uhd->hd", scores.softmax(0), v[:seen]).flatten())
        return torch.stack(rows) @ self.output.weight.t(), None

    @classmethod
    def examples(cls) -> dict[str, Callable[[int], SoftmaxMixer]]:
        return {"one head": partial(cls, heads=1), "two heads": partial(cls, heads=2)}
