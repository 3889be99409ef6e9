"""HSTU's biases and scores, and eSASRec's blocks, are what their papers write."""

from __future__ import annotations

import math

import pytest
import torch
from models.small_models import make, near, sequences
from small_histories import tiny_histories, walks
from torch.nn.functional import layer_norm

import longrec
from longrec.core.errors import UsageError
from longrec.mixers import Context
from longrec.models.esasrec import ESASRecConfig, LiGRBlock
from longrec.ops import hstu


def test_time_falls_into_buckets_by_its_logarithm():
    gaps = [-5, 0, 1, 2, 3, 60, 86_400, 10**9, 2**62]
    wanted = [min(int(math.log(max(gap, 1)) / 0.301), 128) for gap in gaps]
    assert hstu.buckets(torch.tensor(gaps)).tolist() == wanted
    assert wanted[-1] == 128


@pytest.mark.slow  # computing again for the gradient imports PyTorch's compiler
def test_queries_in_blocks_give_what_all_at_once_give(monkeypatch):
    torch.manual_seed(0)
    shape, found = (2, 2, 23, 4), []
    parts = [torch.randn(shape, dtype=torch.float64).requires_grad_() for _ in range(3)]
    parts += [torch.randn(n, dtype=torch.float64).requires_grad_() for n in (9, 129)]
    times = torch.randint(0, 9999, (2, 23)).cumsum(1)
    for queries in (256, 5):
        monkeypatch.setattr(hstu, "QUERIES", queries)
        y = hstu.hstu_attention(*parts, times, divisor=7)
        grads = torch.autograd.grad(y.square().sum(), parts)
        found.append((y, *grads))
    for one, other in zip(*found, strict=True):
        near(one, other)


def test_hstu_scores_by_cosines_over_its_temperature():
    model = make("hstu", time_bias=False)
    items, times = sequences()
    h = model.encode(items)
    near(model.encode(items, Context(times=times)), h)
    scores = model.score(1e3 * h[:, -1])
    near(scores, model.score(h[:, -1]))
    cosines = torch.nn.functional.cosine_similarity(h[:, -1, None], model.items[None, 1:], dim=2)
    near(scores[:, 1:], cosines / 0.05)


@torch.no_grad()
def test_hstu_is_its_blocks_over_items_and_their_places_from_the_end():
    """By the definition of its attention, row by row; without places an end is no different."""
    model = make("hstu")
    items, times = sequences()
    lengths = [30, 4, 17]
    h = model.encode(items, Context(lengths=torch.tensor(lengths), times=times))
    assert isinstance(model.positions, torch.nn.Parameter)
    for row, n in enumerate(lengths):
        x = model.items[items[row, :n]] * math.sqrt(12) + model.positions[30 - n :]
        for block in model.blocks:
            mixer, width = block.mixer, (12,)
            inner = layer_norm(x, width, eps=1e-6) @ mixer.inputs.weight.t()
            u, v, q, k = (inner * inner.sigmoid()).chunk(4, 1)
            heads = [part.unflatten(1, (2, 6)) for part in (q, k, v)]
            biases = mixer.by_distance, mixer.by_time
            read = hstu.naive_hstu(*heads, *biases, times[row, :n], divisor=30).flatten(1)
            gated = u * layer_norm(read, width, eps=1e-6)
            x = x + gated @ block.output.weight.t() + block.output.bias
        near(h[row, :n], x)


def test_hstu_s_time_needs_a_log_with_times(tmp_path):
    data = tiny_histories(tmp_path / "histories", walks(10, 20, 4, 9), None, 20)
    with pytest.raises(UsageError, match=r"hstu reads the times .* or train with time_bias=false"):
        longrec.train(data, "hstu", dim=8, max_epochs=1, progress=False)


@torch.no_grad()
def test_a_ligr_block_gates_what_it_adds_by_its_own_input():
    torch.manual_seed(0)
    config = ESASRecConfig(dim=6, ffn_dim=5, dropout=0.0)
    block = LiGRBlock(torch.nn.Identity(), config).double()  # type: ignore[arg-type]
    x, mixed = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    gates = [(gate.weight.t(), gate.bias) for gate in block.gates]
    wanted = x + mixed / (1 + (-(x @ gates[0][0] + gates[0][1])).exp())
    inner, outer = block.ffn_inputs.weight, block.ffn_output.weight
    g, v = (layer_norm(wanted, (6,)) @ part.t() for part in inner.chunk(2))
    added = (g / (1 + (-g).exp()) * v) @ outer.t()
    wanted = wanted + added / (1 + (-(wanted @ gates[1][0] + gates[1][1])).exp())
    near(block.after(x, mixed), wanted)
