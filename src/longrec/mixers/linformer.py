"""Linformer (arXiv 2006.04768): softmax attention over k learnt sums of the events.

    K' = E X Wk        V' = F X Wv        per head of width d
    y_t = softmax_k(<q_t, K'> / sqrt d) V'

E and F (k x N) weigh the N places of a window, and are shared by the heads (the paper's "headwise
sharing"). A shorter history stands at the end of the window, with zeros in front: it takes the last
columns of E and F. As E (X Wk) = (E X) Wk, the k sums are projected and not the N events.
O(T k D). Not causal: the k sums are of the whole history.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from longrec.mixers.base import EMPTY, Context, Mixer, register_mixer
from longrec.ops.heads import join_heads, split_heads
from longrec.ops.windows import at_end


@register_mixer("linformer")
class LinformerMixer(Mixer):
    """Softmax attention over k learnt sums of a window's events, bidirectional.

    Parameters
    ----------
    dim, heads : int
        Width D, heads H (a divisor of D).
    rank : int
        k, the sums that stand for the events.
    max_length : int
        N, the places of the window: most events that can be read.
    """

    causal = False
    linear = True
    cost = "O(T k D)"

    def __init__(self, dim: int, heads: int = 2, rank: int = 20, max_length: int = 200) -> None:
        super().__init__()
        self.heads, self.max_length = heads, max_length
        self.query = nn.Linear(dim, dim, bias=False)
        self.keys = nn.Linear(dim, dim, bias=False)
        self.values = nn.Linear(dim, dim, bias=False)
        self.output = nn.Linear(dim, dim, bias=False)
        scale = max_length**-0.5
        self.key_sums = nn.Parameter(torch.randn(rank, max_length) * scale)  # E
        self.value_sums = nn.Parameter(torch.randn(rank, max_length) * scale)  # F

    def forward(self, x: Tensor, ctx: Context = EMPTY) -> Tensor:
        if not x.shape[1]:
            return x
        places = self.key_sums.shape[1]
        size = min(x.shape[1], places)
        window = at_end(x, ctx.lengths, size)
        q = split_heads(self.query(x), self.heads)
        k = split_heads(self.keys(self.key_sums[:, places - size :] @ window), self.heads)
        v = split_heads(self.values(self.value_sums[:, places - size :] @ window), self.heads)
        return cast(Tensor, self.output(join_heads(scaled_dot_product_attention(q, k, v))))
