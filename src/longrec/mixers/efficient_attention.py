"""Efficient attention (arXiv 1812.01243), made causal.

The paper normalises queries by a softmax over features, and keys by one over events, feature by
feature, and reads Y = softmax(Q) (softmax(K)^T V). Its authors say that it cannot be causal, since
all events share one sum. Here the softmax over events ends at t:

    y_t = sum_f softmax(q_t)_f  sum_{u<=t} exp(k_uf) v_u / sum_{u<=t} exp(k_uf)

So y_t is what the paper's form gives at the last event of the history up to t. Both sums run on,
and exponents are held within -30 and 30, so that no running maximum is needed: a weight of e^60
times another is beyond float32's reach already.
"""

from __future__ import annotations

from torch import Tensor

from longrec.mixers.base import register_mixer
from longrec.mixers.kernel import ColumnMixer
from longrec.ops.normalised import EXPONENT, within


@register_mixer("efficient-attention")
class EfficientAttentionMixer(ColumnMixer):
    """Efficient attention made causal: softmax of q over features, of k over the events so far.

    Parameters
    ----------
    dim, heads, convolution
        As in KernelMixer.
    """

    power = 1

    def maps(self, q: Tensor, k: Tensor, position: Tensor | None) -> tuple[Tensor, Tensor]:
        return q.softmax(-1), within(k, -EXPONENT, EXPONENT).exp()
