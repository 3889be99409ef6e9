"""Softmax attention stays fused with padding: no T x T scores or masks are stored."""

from __future__ import annotations

import pytest
import torch
from mixers.definitions import examples_of

from longrec.checks import mixers as properties
from longrec.checks.cost import Counter
from longrec.mixers import Context


@pytest.mark.parametrize("name", ["softmax", "softmax-bidirectional"])
def test_padded_rows_take_the_fused_kernel_and_memory_in_proportion(name):
    events, width = 1024, 8
    mixer = properties.build(examples_of(name)["two heads"], width, kind=torch.float32)
    x = torch.randn(3, events, width, requires_grad=True)
    with Counter() as counter:
        mixer(x, Context(torch.tensor([events, 0, 700]))).sum().backward()
    used = set(counter.cost.by_name)
    assert any("flash" in kernel or "efficient" in kernel for kernel in used), used
    assert not any("softmax" in kernel for kernel in used), used
    assert counter.cost.largest <= 3 * x.numel(), "more than q, k and v together"
    assert torch.isfinite(x.grad).all()
