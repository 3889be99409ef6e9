"""The recurrent mixers as their papers write them; see definitions.py."""

from __future__ import annotations

from torch import Tensor

from longrec.checks.definitions import EXAMPLES, Defined, define
from longrec.mixers.gru import GRUMixer, GRUState
from longrec.ops.gru import naive_gru

EXAMPLES.update({"gru": {"default": GRUMixer}})


@define.register
def _(mixer: GRUMixer, x: Tensor, times: Tensor) -> Defined:
    gru = mixer.gru
    weights = (gru.weight_ih_l0, gru.bias_ih_l0, gru.weight_hh_l0, gru.bias_hh_l0)
    y, last = naive_gru(x, x.new_zeros(x.shape[1]), *weights)
    return y, GRUState(last[None])
