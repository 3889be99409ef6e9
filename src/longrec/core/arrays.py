"""Array types by name, and index arithmetic that several rooms share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def places(begin: Ints, lengths: Ints) -> Ints:
    """begin[0], begin[0] + 1, … (lengths[0] of them), then the same of the next stretch, …"""
    before = lengths.cumsum() - lengths
    return np.arange(lengths.sum()) + np.repeat(begin - before, lengths)
