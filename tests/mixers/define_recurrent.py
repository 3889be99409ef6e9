"""The recurrent mixers as their papers write them; see definitions.py."""

from __future__ import annotations

import torch
from torch import Tensor

from longrec.checks.definitions import EXAMPLES, Defined, define
from longrec.mixers.gru import GRUMixer, GRUState
from longrec.mixers.lru import LRUMixer, LRUState
from longrec.ops.gru import naive_gru
from longrec.ops.lru import naive_lru

EXAMPLES.update({"gru": {"default": GRUMixer}, "lru": {"default": LRUMixer}})


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
