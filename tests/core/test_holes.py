"""What was taken and freed between what is in use is given back."""

from __future__ import annotations

import numpy as np
import pytest

from longrec.core.memory import give_back_holes, own_bytes

MIB = 1 << 20


@pytest.mark.skipif(not own_bytes() or not give_back_holes(), reason="another C library")
def test_what_is_free_between_what_is_in_use_is_given_back():
    before = own_bytes()
    parts = [np.ones(MIB // 64) for _ in range(512)]  # below the size that is mapped by itself
    held = parts[::16]
    assert own_bytes() - before > 40 * MIB
    del parts
    give_back_holes()
    assert own_bytes() - before < 20 * MIB
    assert sum(float(part.sum()) for part in held) == len(held) * MIB // 64
