"""The linear recurrence by powers: at any depth of chunks, and in float32 over long histories."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from longrec.checks import mixers as properties
from longrec.mixers.lru import LRUMixer
from longrec.ops import lru as lrus
from longrec.ops.lru import lru, naive_lru


def recurrence(events: int, smallest: float = 0.01) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """u (T, H) and h (H,) complex, nu and theta (H,)."""
    random = torch.Generator().manual_seed(events)
    u = torch.randn(events, 4, 2, generator=random, dtype=torch.float64)
    nu = torch.tensor([smallest, 0.1, 1.0, 30.0], dtype=torch.float64)
    theta = torch.tensor([0.0, 0.3, 3.1, 6.0], dtype=torch.float64)
    return torch.view_as_complex(u), torch.ones(4, dtype=torch.complex128) * (1 + 2j), nu, theta


@pytest.mark.parametrize("events", [1, 2, 3, 9, 10, 28, 82])
def test_chunks_of_chunks_give_the_definition(monkeypatch, events):
    monkeypatch.setattr(lrus, "CHUNK", 3)
    u, h, nu, theta = recurrence(events)
    parts = [(part.real.mT, part.imag.mT) for part in (u, h[None])]
    real, imaginary = lru(
        (parts[0][0][:, None], parts[0][1][:, None]), nu, theta, (parts[1][0], parts[1][1])
    )
    wanted = naive_lru(u, torch.complex(-nu, theta), h).mT
    torch.testing.assert_close(torch.complex(real, imaginary)[:, 0], wanted)


def test_float32_holds_what_fades_slowly():
    u, h, nu, theta = recurrence(5000, smallest=1e-4)
    single = (u.real.mT[:, None].float(), u.imag.mT[:, None].float())
    found = torch.complex(*lru(single, nu, theta, None))[:, 0]
    wanted = naive_lru(u, torch.complex(-nu, theta), 0 * h).mT
    assert float((found - wanted).abs().max() / wanted.abs().max()) < 1e-6


def test_the_ring_it_starts_on():
    mixer = properties.build(LRUMixer, 64)
    size = (-mixer.nu_log.detach().exp()).exp()
    assert bool(((size > 0.8) & (size < 0.99)).all())
    assert float(size.min()) < 0.82
    assert float(size.max()) > 0.98
    torch.testing.assert_close(mixer.gamma_log.detach().exp(), (1 - size**2).sqrt())
