"""LinRec's attention (SIGIR 2023, arXiv 2411.01537), made causal.

The paper gives every query (a row of Q) and every feature of the keys (a column of K, over all
events) L2 norm 1 after an ELU, and reads Y = Q (K^T V) / sqrt(d). Here the columns end at t:

    y_t = 1/sqrt(d) sum_f elu(q_t)_f / ||elu(q_t)||  sum_{u<=t} elu(k_uf) v_u / n_tf
    n_tf = sqrt(sum_{u<=t} elu(k_uf)^2)

So y_t is what the paper's form gives at the last event of the history up to t. The released code
divides each key by its own norm over features instead, where nothing is over events, and reads
padding and later events alike.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import elu, normalize

from longrec.mixers.base import register_mixer
from longrec.mixers.kernel import ColumnMixer
from longrec.ops.normalised import LARGEST, within


@register_mixer("linrec")
class LinRecMixer(ColumnMixer):
    """LinRec's attention made causal: queries of norm 1, features of keys of norm 1 over events.

    Parameters
    ----------
    dim, heads, convolution
        As in KernelMixer.
    """

    power = 2

    def maps(self, q: Tensor, k: Tensor, position: Tensor | None) -> tuple[Tensor, Tensor]:
        q, k = (elu(within(x, -LARGEST, LARGEST)) for x in (q, k))
        return normalize(q, dim=-1) / q.shape[-1] ** 0.5, k
