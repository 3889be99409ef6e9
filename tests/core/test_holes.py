"""What was taken and freed between what is in use is given back."""

from __future__ import annotations

import numpy as np
import pytest

from longrec.core.memory import freed_memory_kept, give_back_holes, own_bytes

MIB = 1 << 20


glibc = pytest.mark.skipif(not own_bytes() or not give_back_holes(), reason="another C library")


@glibc
def test_what_a_training_kept_is_given_back_at_its_end():
    before = own_bytes()
    with freed_memory_kept():
        parts = [np.ones(8 * MIB // 8) for _ in range(8)]
        held = parts.pop()
        del parts
        assert own_bytes() - before > 50 * MIB
    assert own_bytes() - before < 20 * MIB
    assert held.sum() == MIB


@glibc
def test_what_is_free_between_what_is_in_use_is_given_back():
    before = own_bytes()
    parts = [np.ones(MIB // 64) for _ in range(512)]  # below the size that is mapped by itself
    held = parts[::16]
    assert own_bytes() - before > 40 * MIB
    del parts
    give_back_holes()
    assert own_bytes() - before < 20 * MIB
    assert sum(float(part.sum()) for part in held) == len(held) * MIB // 64
