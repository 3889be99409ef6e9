"""In which type sums over a history are kept."""

from __future__ import annotations

import torch
from torch import Tensor


def sum_type(x: Tensor) -> torch.dtype:
    """Of sums of x: never half precision, which loses what is added to a long history."""
    return torch.promote_types(x.dtype, torch.float32)


LASTING = torch.float64
"""Of what a state sums without ever forgetting: after a million events, one more that is added in
float32 falls under the last bit, each time by as much where events repeat themselves."""


def running_sums(x: Tensor) -> Tensor:
    """Sums of x (B, T, ...) over the events so far, in place on a CPU.

    Each is rounded once: PyTorch adds in float64 on a CPU, and is told to elsewhere.
    """
    if x.device.type == "cpu":
        return x.cumsum_(1)
    return x.cumsum(1, dtype=LASTING).to(x.dtype)
