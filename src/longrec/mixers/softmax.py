"""Softmax attention (Vaswani et al., arXiv 1706.03762), in its fused form.

    causal          y_t = sum_{u<=t} softmax_u(<q_t, k_u> / sqrt d) v_u
    bidirectional   y_t = sum_u softmax_u(<q_t, k_u> / sqrt d) v_u       over the real events u

torch's scaled_dot_product_attention with is_causal and no dropout inside stores no T x T scores,
and a padding mask of shape (B, 1, 1, T) broadcasts. Dropout inside it would send a CPU down the
quadratic path, so models drop the output instead.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from longrec.mixers.base import EMPTY, Context, Mixer, register_mixer
from longrec.ops.heads import join_heads, split_heads


@register_mixer("softmax")
class SoftmaxMixer(Mixer):
    """Causal softmax attention, fused: memory O(T D).

    Parameters
    ----------
    dim : int
        Width D.
    heads : int
        Heads H, a divisor of D.
    """

    causal = True
    linear = False
    cost = "O(T² D)"

    def __init__(self, dim: int, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.inputs = nn.Linear(dim, 3 * dim, bias=False)
        self.output = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, ctx: Context = EMPTY) -> Tensor:
        q, k, v = (split_heads(part, self.heads) for part in self.inputs(x).chunk(3, dim=-1))
        # Padding stands at the end: when causal, no real event ever looks at it.
        mask = None if self.causal else ctx.key_mask(x)
        mixed = scaled_dot_product_attention(q, k, v, mask, is_causal=self.causal)
        y: Tensor = self.output(join_heads(mixed))
        return y


@register_mixer("softmax-bidirectional")
class BidirectionalSoftmaxMixer(SoftmaxMixer):
    """Bidirectional softmax attention, fused: memory O(T D).

    Parameters
    ----------
    dim, heads : int
        As in SoftmaxMixer.
    """

    causal = False
