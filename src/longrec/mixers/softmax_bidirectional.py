"""Softmax attention (Vaswani et al., arXiv 1706.03762), bidirectional, in its fused form.

    y_t = sum_u softmax_u(<q_t, k_u> / sqrt d) v_u          over the real events u

The padding mask is (B, 1, 1, T) and broadcasts, so no T x T tensor is stored; no dropout inside, as
in the causal form.
"""

from __future__ import annotations

from longrec.mixers.base import register_mixer
from longrec.mixers.softmax import SoftmaxMixer


@register_mixer("softmax-bidirectional")
class BidirectionalSoftmaxMixer(SoftmaxMixer):
    """Bidirectional softmax attention, O(T^2 D) operations and O(T D) memory.

    Parameters
    ----------
    dim, heads : int
        As in SoftmaxMixer.
    """

    causal = False
