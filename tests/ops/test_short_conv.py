"""The short convolution in all its forms, in however small pieces, against its definition."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longrec.ops import short_conv
from longrec.ops.short_conv import (
    convolve,
    convolve_back,
    convolve_step,
    last_inputs,
    naive_convolution,
)


@settings(max_examples=50)
@given(
    batch=st.integers(1, 4),
    events=st.integers(1, 12),
    width=st.integers(1, 5),
    cached=st.sampled_from([1, 6, 20, 1 << 16]),
    follows=st.booleans(),
)
def test_all_forms_are_the_definition(batch, events, width, cached, follows):
    torch.manual_seed(batch * 100 + events)
    kernel = torch.randn(width, 3, dtype=torch.float64, requires_grad=True)
    longer = torch.randn(batch, width - 1 + events, 3, dtype=torch.float64, requires_grad=True)
    split = width - 1 if follows else 0
    past = longer[:, :split] if follows else None
    x = longer[:, split:]
    wanted = torch.stack([naive_convolution(row, kernel)[split:] for row in longer])
    slope = torch.randn_like(wanted)
    to_longer, to_kernel = torch.autograd.grad(wanted, (longer, kernel), slope)
    usual, short_conv.CACHED_NUMBERS = short_conv.CACHED_NUMBERS, cached
    try:
        with torch.no_grad():
            torch.testing.assert_close(convolve(x, past, kernel), wanted)
            found_x, found_past, found_kernel = convolve_back(slope, x, past, kernel)
            before = past if past is not None else torch.zeros(batch, width - 1, 3).double()
            state = before
            for t in range(x.shape[1]):
                lengths = torch.full((batch,), t)
                torch.testing.assert_close(state, last_inputs(x, before, lengths))
                y, state = convolve_step(x[:, t], state, kernel)
                torch.testing.assert_close(y, wanted[:, t])
    finally:
        short_conv.CACHED_NUMBERS = usual
    torch.testing.assert_close(found_x, to_longer[:, split:])
    torch.testing.assert_close(found_kernel, to_kernel)
    assert (found_past is None) is (past is None)
    if found_past is not None:
        torch.testing.assert_close(found_past, to_longer[:, :split])
