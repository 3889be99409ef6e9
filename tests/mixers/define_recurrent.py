"""The recurrent mixers as their papers write them; see definitions.py."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import silu, softplus

from longrec.checks.definitions import EXAMPLES, Defined, define
from longrec.mixers.gru import GRUMixer, GRUState
from longrec.mixers.lru import LRUMixer, LRUState
from longrec.mixers.mamba import LARGEST, MambaMixer, MambaState
from longrec.ops.gru import naive_gru
from longrec.ops.lru import naive_lru
from longrec.ops.selective_scan import naive_selective

EXAMPLES.update(
    {
        "gru": {"default": GRUMixer},
        "lru": {"default": LRUMixer},
        "mamba": {"few places": partial(MambaMixer, places=5, convolution=3)},
    }
)


@define.register
def _(mixer: GRUMixer, x: Tensor, times: Tensor) -> Defined:
    gru = mixer.gru
    weights = (gru.weight_ih_l0, gru.bias_ih_l0, gru.weight_hh_l0, gru.bias_hh_l0)
    y, last = naive_gru(x, x.new_zeros(x.shape[1]), *weights)
    return y, GRUState(last[None])


@define.register
def _(mixer: LRUMixer, x: Tensor, times: Tensor) -> Defined:
    b, c = (torch.complex(*w.chunk(2, dim)) for w, dim in ((mixer.inputs, 0), (mixer.output, 1)))
    log_lambda = torch.complex(-mixer.nu_log.exp(), mixer.theta_log.exp())
    u = mixer.gamma_log.exp() * (x.to(b.dtype) @ b.t())
    h = naive_lru(u, log_lambda, torch.zeros_like(log_lambda))
    return (h @ c.t()).real, LRUState(h[-1:].real, h[-1:].imag)


@define.register
def _(mixer: MambaMixer, x: Tensor, times: Tensor) -> Defined:
    u, z = (x @ mixer.inputs.weight.t()).clamp(-LARGEST, LARGEST).chunk(2, -1)
    width = len(mixer.kernel)
    before = torch.cat([u.new_zeros(width - 1, u.shape[1]), u])
    rows = []
    for t in range(len(u)):
        terms = [mixer.kernel[i] * u[t - i] for i in range(min(width, t + 1))]
        rows.append(silu(mixer.kernel_bias + sum(terms)))
    h = torch.stack(rows)
    low, b, c = (h @ mixer.selection.weight.t()).split(mixer.widths, -1)
    delta = softplus(low @ mixer.delta.weight.t() + mixer.delta.bias)
    empty = mixer.initial_state(1)
    y, last = naive_selective(h, delta, -mixer.a_log.exp(), b, c, empty.sums[0])
    y = (y + mixer.skip * h) * silu(z)
    return y @ mixer.output.weight.t(), MambaState(last[None], before[len(u) :][None])
