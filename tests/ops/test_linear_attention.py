"""Linear attention by chunks and by steps is its definition, with and without forgetting."""

from __future__ import annotations

import pytest
import torch

from longrec.ops.linear_attention import causal_linear, linear_step, naive_linear


def parts(length, decayed, seed=0):
    random = torch.Generator().manual_seed(seed)
    shapes = ((2, 2, length, 5), (2, 2, length, 5), (2, 2, length, 3))
    q, k, v = (torch.randn(s, generator=random, dtype=torch.float64) for s in shapes)
    decay = -torch.rand(2, 2, length, generator=random, dtype=torch.float64) * 2
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_(), decay if decayed else None


def naive(q, k, v, decay):
    rows = [
        naive_linear(q[b, h], k[b, h], v[b, h], None if decay is None else decay[b, h])
        for b in range(2)
        for h in range(2)
    ]
    y, last = (torch.stack(x).unflatten(0, (2, 2)) for x in zip(*rows, strict=True))
    return y, last


def same(got, wanted):
    torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("decayed", [False, True])
@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 33])
def test_chunks_give_what_the_definition_gives_and_its_gradients(length, decayed):
    q, k, v, decay = parts(length, decayed)
    given = [q, k, v] + ([decay.requires_grad_()] if decayed else [])
    wanted, last = naive(q, k, v, decay)
    slow = torch.autograd.grad((wanted.sin().sum() + last.cos().sum()), given)
    for chunk in (1, 8, 64):
        y, state = causal_linear(q, k, v, log_decay=decay, chunk=chunk)
        same(y, wanted)
        same(state, last)
        fast = torch.autograd.grad((y.sin().sum() + state.cos().sum()), given)
        for got, grad in zip(fast, slow, strict=True):
            same(got, grad)


@pytest.mark.parametrize("decayed", [False, True])
def test_parts_and_steps_go_on_from_a_sum(decayed):
    q, k, v, decay = parts(21, decayed)
    cut = lambda x, s: None if x is None else x[:, :, s]  # noqa: E731
    wanted, last = naive(q, k, v, decay)
    first, rest = slice(0, 9), slice(9, 18)
    y, state = causal_linear(
        q[:, :, first], k[:, :, first], v[:, :, first], None, cut(decay, first)
    )
    z, state = causal_linear(
        *(q[:, :, rest], k[:, :, rest], v[:, :, rest], state, cut(decay, rest)), chunk=4
    )
    steps = []
    for t in range(18, 21):
        row, state = linear_step(*(x[:, :, t] for x in (q, k, v)), state, cut(decay, t))
        steps.append(row)
    same(torch.cat([y, z, torch.stack(steps, 2)], 2), wanted)
    same(state, last)


@pytest.mark.parametrize("decayed", [False, True])
def test_padding_leaves_the_sum_as_it_is(decayed):
    q, k, v, decay = parts(12, decayed)
    mask = torch.arange(12) < torch.tensor([[5], [0]])
    _, state = causal_linear(q, k, v, log_decay=decay, mask=mask, chunk=4)
    short = [x[:, :, :5] for x in (q, k, v)]
    _, wanted = naive(*short, None if decay is None else decay[:, :, :5])
    same(state[0], wanted[0])
    assert not state[1].any()


def test_small_forgetting_after_a_very_large_one_keeps_its_digits():
    q, k, v, decay = parts(33, True)
    decay[:, :, 3] = -1e8
    y, _ = causal_linear(*(x.detach().float() for x in (q, k, v)), log_decay=decay)
    assert y.dtype == torch.float32
    wanted, _ = naive(q, k, v, decay)
    torch.testing.assert_close(y, wanted.float(), rtol=1e-5, atol=1e-5)
