"""The short convolution, in however small pieces it is done, against its definition."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longrec.ops import short_conv as convolution
from longrec.ops.short_conv import ShortConvolution, convolve, convolve_back


@settings(deadline=None)
@given(
    batch=st.integers(1, 4),
    events=st.integers(1, 12),
    width=st.integers(1, 5),
    near=st.sampled_from([1, 6, 20, 1 << 16]),
    follows=st.booleans(),
)
def test_it_is_its_definition_in_pieces_of_any_size(batch, events, width, near, follows):
    torch.manual_seed(batch * 100 + events)
    layer = ShortConvolution(3, width).double()
    longer = torch.randn(batch, width - 1 + events, 3, dtype=torch.float64, requires_grad=True)
    split = width - 1 if follows else 0
    past = longer[:, :split] if follows else None
    x = longer[:, split:]
    wanted = torch.stack([layer.define(row)[split:] for row in longer])
    slope = torch.randn_like(wanted)
    to_longer, to_weight = torch.autograd.grad(wanted, (longer, layer.weight), slope)
    usual, convolution.NEAR = convolution.NEAR, near
    try:
        kernel = layer.weight.t()
        with torch.no_grad():
            torch.testing.assert_close(convolve(x, past, kernel), wanted)
            to_x, to_past, to_kernel = convolve_back(slope, x, past, kernel)
    finally:
        convolution.NEAR = usual
    torch.testing.assert_close(to_x, to_longer[:, split:])
    torch.testing.assert_close(to_kernel.t(), to_weight)
    assert (to_past is None) is (past is None)
    if to_past is not None:
        torch.testing.assert_close(to_past, to_longer[:, :split])
