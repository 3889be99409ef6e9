"""Mixers of target-aware models as their papers write them: slowly, one whole history at a time."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from longrec.checks.definitions import EXAMPLES, Defined, define
from longrec.mixers.factorization_heads import FactorizationHeadsMixer
from longrec.ops.factorization_heads import naive_factorization_heads

EXAMPLES.update({"factorization-heads": {"three heads": partial(FactorizationHeadsMixer, heads=3)}})


@define.register
def _(mixer: FactorizationHeadsMixer, x: Tensor, times: Tensor) -> Defined:
    parts = (x @ mixer.inputs.weight.t()).chunk(3, -1)
    q, k, v = (part.unflatten(-1, (mixer.heads, -1)) for part in parts)
    return naive_factorization_heads(q, k, v) @ mixer.output.weight.t(), None
