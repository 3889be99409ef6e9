"""Linear attention of the linear transformer (arXiv 2006.16236).

    y_t = sum_{u<=t} <phi(q_t), phi(k_u)> v_u / sum_{u<=t} <phi(q_t), phi(k_u)>
    phi(x) = elu(x) + 1

Its authors' code adds 1e-6 to the divisor. Here nothing is added: phi is at least exp(-30).
"""

from __future__ import annotations

from torch import Tensor

from longrec.mixers.base import register_mixer
from longrec.mixers.kernel import KernelMixer
from longrec.ops.normalised import positive


@register_mixer("linear-transformer")
class LinearTransformerMixer(KernelMixer):
    """Causal linear attention with features elu + 1.

    Parameters
    ----------
    dim, heads, convolution
        As in KernelMixer.
    """

    def maps(self, q: Tensor, k: Tensor, position: Tensor | None) -> tuple[Tensor, Tensor]:
        return positive(q), positive(k)
