"""The type of products in training: what was asked for, or what this device does fast."""

from __future__ import annotations

from typing import Literal

import torch

from longrec.config.training import Precision
from longrec.core.processor import multiplies_bfloat16

Chosen = Literal["float32", "bfloat16"]


def choose_precision(wanted: Precision, device: torch.device) -> Chosen:
    """The type of products in training: as wanted, or with "auto" what is fast on this device.

    That is bfloat16 on a GPU that has it and on a CPU whose own list of abilities has such
    products; nothing is timed, so that neither load nor luck changes a run's numbers.
    """
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    return "bfloat16" if device.type == "cpu" and multiplies_bfloat16() else "float32"
