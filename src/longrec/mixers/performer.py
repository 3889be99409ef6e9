"""Performer's attention, FAVOR+ (arXiv 2009.14794): softmax attention by random features.

    y_t = sum_{u<=t} <phi(q_t), phi(k_u)> v_u / sum_{u<=t} <phi(q_t), phi(k_u)>
    phi(x)_i = exp(<w_i, x> - |x|^2 / 2)         of x / d^(1/4)

is softmax attention in the mean over w_i, normal vectors, which are drawn orthogonal in blocks of
d. They are drawn once and saved with the weights: what is trained is what is served.

Factors that numerator and divisor share are left out: 1/sqrt(m) of both features, and what depends
on the query alone. The authors' code subtracts from keys their maximum over the batch, padding and
later events included, and adds 1e-6 to features; here exponents are held within -30 and 30, which
depends on nothing else.
"""

from __future__ import annotations

import torch
from torch import Tensor

from longrec.mixers.base import register_mixer
from longrec.mixers.kernel import KernelMixer
from longrec.ops.normalised import EXPONENT, within


@register_mixer("performer")
class PerformerMixer(KernelMixer):
    """Causal softmax attention approximated by positive orthogonal random features.

    Parameters
    ----------
    dim, heads, convolution
        As in KernelMixer.
    features : int
        Random features m of each head.
    """

    directions: Tensor
    cost = "O(T m D)"

    def __init__(self, dim: int, heads: int = 2, features: int = 64, convolution: int = 4) -> None:
        super().__init__(dim, heads, convolution, features)
        self.register_buffer("directions", orthogonal_directions(features, dim // heads))

    def maps(self, q: Tensor, k: Tensor, position: Tensor | None) -> tuple[Tensor, Tensor]:
        scale, w = q.shape[-1] ** -0.25, self.directions.to(q.dtype).t()
        q, k = q * scale @ w, (k * scale @ w) - (k * scale).square().sum(-1, keepdim=True) / 2
        q = q - q.amax(-1, keepdim=True)
        return within(q, -EXPONENT, EXPONENT).exp(), within(k, -EXPONENT, EXPONENT).exp()


def orthogonal_directions(number: int, d: int) -> Tensor:
    """(number, d): normal vectors, orthogonal to each other in blocks of d."""
    blocks = [
        torch.linalg.qr(torch.randn(d, d, dtype=torch.float64)) for _ in range(-(-number // d))
    ]
    # With the signs of R's diagonal every direction is as likely as any other.
    rows = torch.cat([(q * r.diagonal().sign()).t() for q, r in blocks])[:number]
    lengths = torch.randn(number, d, dtype=torch.float64).norm(dim=1, keepdim=True)
    directions: Tensor = rows * lengths
    return directions.float()
