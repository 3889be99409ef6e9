"""The selective scan by chunks and segments, in bounded memory; and what is around its kernel."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv1d, silu

from longrec.checks import mixers as properties
from longrec.mixers import mamba
from longrec.mixers.mamba import MambaMixer
from longrec.ops import selective_scan as scans
from longrec.ops import selective_scan_cuda as cuda
from longrec.ops.selective_scan import naive_selective, selective_scan

NAMES = ("x", "delta", "a", "b", "c", "past")
REAL = cuda.available(torch.ones(1, device="cuda"), 4) if torch.cuda.is_available() else False


def inputs(
    batch: int, events: int, seed: int = 0, channels: int = 5, places: int = 3
) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, generator=random, dtype=torch.float64)
    shape = (batch, events)
    parts = [draw(*shape, channels), draw(*shape, channels).exp(), -draw(channels, places).exp()]
    parts += [draw(*shape, places), draw(*shape, places), draw(batch, channels, places)]
    return [part.requires_grad_() for part in parts]


def by_definition(x: Tensor, delta: Tensor, a: Tensor, *more: Tensor) -> tuple[Tensor, Tensor]:
    rows = [naive_selective(*row[:2], a, *row[2:]) for row in zip(x, delta, *more, strict=True)]
    y, h = zip(*rows, strict=True)
    return torch.stack(y), torch.stack(h)


@pytest.mark.parametrize(("batch", "events"), [(1, 1), (1, 70), (3, 29), (2, 12), (7, 5)])
def test_chunks_segments_and_groups_of_channels_give_the_definition(monkeypatch, batch, events):
    monkeypatch.setattr(scans, "CHUNK", 4)
    monkeypatch.setattr(scans, "ROWS", 3)
    monkeypatch.setattr(scans, "AT_ONCE", 20)
    given = inputs(batch, events)
    found, wanted = selective_scan(*given), by_definition(*given)
    weights = [torch.randn_like(part) for part in wanted]
    gradients = [
        torch.autograd.grad(sum((p * w).sum() for p, w in zip(out, weights, strict=True)), given)
        for out in (found, wanted)
    ]
    for got, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, right)
    for name, got, right in zip(NAMES, *gradients, strict=True):
        torch.testing.assert_close(got, right, msg=lambda m, name=name: f"{name}: {m}")
    with torch.no_grad():
        torch.testing.assert_close(selective_scan(*given)[0], wanted[0])


def test_what_is_forgotten_at_once_leaves_float32_as_it_is():
    given = [part.detach().float() for part in inputs(1, 80)]
    given[1] *= 1e6
    y, h = selective_scan(*given)
    assert y.isfinite().all()
    assert h.isfinite().all()


def test_no_tensor_of_all_events_channels_and_places_is_made():
    events, dim, places = 2048, 16, 16
    cost = properties.cost_of(partial(MambaMixer, places=places), events, dim=dim)
    assert cost.largest < 0.15 * events * 2 * dim * places


def documented_scan(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """selective_scan_fn as documented: u, delta (B, E, L), A (E, N), B, C (B, N, L)."""
    past = u.new_zeros(len(u), *a.shape)
    return by_definition(u.mT, delta.mT, a, b.mT, c.mT, past)[0].mT


def documented_convolution(x: Tensor, weight: Tensor, bias: Tensor, activation: str) -> Tensor:
    """causal_conv1d_fn as documented: x (B, E, L), weight (E, W), bias (E,) -> (B, E, L)."""
    assert activation == "silu"
    width = weight.shape[1]
    y = conv1d(x, weight[:, None], bias, padding=width - 1, groups=len(weight))
    return silu(y[..., : x.shape[2]])


def through_kernel(monkeypatch: Any, mixer: MambaMixer, x: Tensor) -> tuple[Tensor, ...]:
    """Outputs and gradients of the mixer by its kernels, and by what runs anywhere."""
    rows = []
    for kernel in (True, False):
        monkeypatch.setattr(mamba, "available", lambda x, width, kernel=kernel: kernel)
        y = mixer(x)
        rows.append((y, *torch.autograd.grad(y.square().sum(), tuple(mixer.parameters()))))
    return tuple(rows)


def test_around_the_kernels_stands_what_they_are_documented_to_take(monkeypatch):
    monkeypatch.setattr(cuda, "load_kernel", lambda: documented_scan)
    monkeypatch.setattr(cuda, "load_convolution", lambda: documented_convolution)
    mixer = properties.build(MambaMixer)
    by_kernel, plain = through_kernel(monkeypatch, mixer, properties.events(20)[0][None])
    for got, wanted in zip(by_kernel, plain, strict=True):
        torch.testing.assert_close(got, wanted)


def test_no_kernel_serves_a_cpu():
    assert not cuda.available(torch.ones(1), 4)


@pytest.mark.skipif(not REAL, reason="needs CUDA, mamba-ssm and causal-conv1d")
def test_on_cuda_the_kernels_give_the_same(monkeypatch):
    mixer = properties.build(MambaMixer, 64, kind=torch.float32).cuda()
    x = torch.randn(3, 300, 64, device="cuda")
    by_kernel, plain = through_kernel(monkeypatch, mixer, x)
    for got, wanted in zip(by_kernel, plain, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)
