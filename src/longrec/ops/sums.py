"""In which type sums over a history are kept."""

from __future__ import annotations

import torch
from torch import Tensor


def sum_type(x: Tensor) -> torch.dtype:
    """Of sums of x: never half precision, which loses what is added to a long history."""
    return torch.promote_types(x.dtype, torch.float32)
