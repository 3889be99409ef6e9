"""The gated delta rule by chunks and by steps is its definition, and that of its authors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from longrec.ops.gated_delta import causal_gated_delta, gated_delta_step, naive_gated_delta

REFERENCE = Path(__file__).parent / "gated_delta_reference.json"


def parts(length, seed=0):
    random = torch.Generator().manual_seed(seed)
    shapes = ((2, 2, length, 5), (2, 2, length, 5), (2, 2, length, 3))
    q, k, v = (torch.randn(s, generator=random, dtype=torch.float64) for s in shapes)
    beta = torch.rand(2, 2, length, generator=random, dtype=torch.float64)
    # Up to a forgetting of all, after which the sums of a chunk still tell small gates apart.
    decay = -(torch.rand(2, 2, length, generator=random, dtype=torch.float64) ** 8) * 200
    return q, torch.nn.functional.normalize(k, dim=-1), v, beta, decay


def naive(*given):
    rows = [naive_gated_delta(*(x[b, h] for x in given)) for b in range(2) for h in range(2)]
    return tuple(torch.stack(x).unflatten(0, (2, 2)) for x in zip(*rows, strict=True))


def same(got, wanted, tolerance=1e-11):
    torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("length", [1, 7, 8, 9, 33])
def test_chunks_give_what_the_definition_gives_and_its_gradients(length):
    given = [x.requires_grad_() for x in parts(length)]
    wanted, last = naive(*given)
    slow = torch.autograd.grad(wanted.sin().sum() + last.cos().sum(), given)
    for chunk in (1, 8, 64):
        y, state = causal_gated_delta(*given, chunk=chunk)
        same(y, wanted)
        same(state, last)
        fast = torch.autograd.grad(y.sin().sum() + state.cos().sum(), given)
        for got, grad in zip(fast, slow, strict=True):
            same(got, grad, 1e-9)


def test_parts_and_steps_go_on_from_a_state():
    given = parts(21)
    wanted, last = naive(*given)
    y, state = causal_gated_delta(*(x[:, :, :9] for x in given))
    z, state = causal_gated_delta(*(x[:, :, 9:18] for x in given), state, chunk=4)
    steps = []
    for t in range(18, 21):
        row, state = gated_delta_step(*(x[:, :, t] for x in given), state)
        steps.append(row)
    same(torch.cat([y, z, torch.stack(steps, 2)], 2), wanted)
    same(state, last)


def test_padding_leaves_the_state_as_it_is():
    given = parts(12)
    mask = torch.arange(12) < torch.tensor([[5], [0]])
    _, state = causal_gated_delta(*given, mask=mask, chunk=4)
    _, wanted = naive(*(x[:, :, :5] for x in given))
    same(state[0], wanted[0])
    assert not state[1].any()


def test_one_key_again_and_again_stays_stable_in_float32():
    """Equal keys make the largest M there is; what is under the key is the last value."""
    key = torch.nn.functional.normalize(torch.ones(1, 1, 1024, 8), dim=-1)
    value = torch.randn(1, 1, 1024, 4, generator=torch.Generator().manual_seed(0))
    for beta in (1.0, 0.999, 0.5):
        size = torch.full((1, 1, 1024), beta)
        y, state = causal_gated_delta(key, key, value, size, torch.zeros_like(size))
        wanted, last = naive_gated_delta(
            *(x[0, 0].double() for x in (key, key, value, size)), torch.zeros(1024).double()
        )
        same(y[0, 0].double(), wanted, 1e-5)
        same(state[0, 0].double(), last, 1e-5)
    same(causal_gated_delta(key, key, value, torch.ones(1, 1, 1024), 0 * size)[0], value, 1e-5)


def test_the_collection_of_its_authors_gives_the_same():
    kept = json.loads(REFERENCE.read_text())
    names = ("q", "k", "v", "beta", "log_decay")
    given = [torch.tensor(kept[name]).transpose(0, 1)[None] for name in names]
    past = torch.tensor(kept["past"])[None]
    y, last = causal_gated_delta(*given, past, chunk=4)
    same(y[0].transpose(0, 1), torch.tensor(kept["y"]), 1e-5)
    same(last[0], torch.tensor(kept["last"]), 1e-5)
