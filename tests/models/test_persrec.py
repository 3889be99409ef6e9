"""PerSRec is what its paper writes, however a history is cut, and keeps no more than it says."""

from __future__ import annotations

import pytest
import torch
from models.small_models import N, make, near, sequences
from torch import Tensor
from torch.nn.functional import gelu, layer_norm

from longrec.mixers import Context
from longrec.models.persrec import PerSRec
from longrec.ops.attention import rotate


def defined(model: PerSRec, items: Tensor) -> Tensor:
    """h after each event of one history (T,), in float64, by lists of what each place may see.

    A place is (segment, token or None); it sees its own segment up to itself, and of earlier
    segments, of the last K, the tokens alone.
    """
    config, places = model.config, []
    for t, item in enumerate(items.tolist()):
        places.append((t // config.segment, None, model.items[item]))
        if t % config.segment == config.segment - 1:
            places += [(t // config.segment, n, model.tokens[n]) for n in range(config.tokens)]
    seen = [
        [
            j
            for j, (segment, token, _) in enumerate(places[: i + 1])
            if segment == mine or (token is not None and mine - segment <= config.summaries)
        ]
        for i, (mine, _, _) in enumerate(places)
    ]
    x = torch.stack([vector for _, _, vector in places]) * config.dim**0.5
    width = config.dim // config.heads
    for block in model.blocks:
        q, k, v = (layer_norm(x, x.shape[1:]) @ block.mixer.inputs.weight.t()).chunk(3, 1)
        mixed = torch.zeros_like(x)
        for i, allowed in enumerate(seen):
            for head in torch.arange(config.dim).chunk(config.heads):
                query = rotate(q[i, head], torch.tensor(i))
                keys = torch.stack([rotate(k[j, head], torch.tensor(j)) for j in allowed])
                weights = (keys @ query / width**0.5).softmax(0)
                mixed[i, head] = weights @ v[allowed][:, head]
        x = x + mixed @ block.mixer.output.weight.t()
        norm, wide, _, narrow = block.ffn
        h = layer_norm(x, x.shape[1:], norm.weight, norm.bias)
        x = x + gelu(h @ wide.weight.t() + wide.bias) @ narrow.weight.t() + narrow.bias
    events = [i for i, (_, token, _) in enumerate(places) if token is None]
    return layer_norm(x, x.shape[1:])[events]


@torch.no_grad()
@pytest.mark.parametrize(
    ("segment", "tokens", "summaries"), [(15, 3, 1), (4, 2, 2), (1, 1, 9), (64, 4, 8)]
)
def test_h_is_by_definition_over_two_segments_and_many(segment, tokens, summaries):
    settings = {"segment": segment, "tokens": tokens, "summaries": summaries, "layers": 3}
    model = make("persrec", **settings)
    items, _ = sequences(1, 30)
    near(model.encode(items)[0], defined(model, items[0]))


@torch.no_grad()
@pytest.mark.parametrize("events", [1, 63, 64, 65, 128, 131])
@pytest.mark.parametrize("window", [0, 1, 3])
def test_any_cut_at_a_segment_s_ends_gives_the_whole(events, window):
    model = make("persrec", segment=64, tokens=2, summaries=1)
    items = torch.randint(1, N + 1, (2, 140), generator=torch.Generator().manual_seed(0))
    whole = model.encode(items)
    state, read = model.initial_state(2), 0
    for size in [events, *[window] * 3, 140 - events - 3 * window]:
        h, state = model.prefill(items[:, read : read + size], state)
        near(h, whole[:, read : read + size])
        read += size
    near(state.output, whole[:, -1])


@torch.no_grad()
def test_users_whose_segments_end_at_different_events_go_on_together():
    model = make("persrec", segment=5, tokens=2, summaries=2)
    items, _ = sequences(3, 30)
    whole, ends = model.encode(items), torch.tensor([4, 10, 17])
    _, state = model.prefill(items, model.initial_state(3), Context(lengths=ends))
    for number in range(7):
        at = torch.arange(3), ends + number
        h, state = model.step(items[at], state)
        near(h, whole[at])


@torch.no_grad()
def test_a_summary_reaches_as_far_as_it_is_kept_in_every_layer():
    """Two layers: what a segment's tokens know of it is read for K segments more, no longer."""
    model = make("persrec", segment=3, tokens=1, summaries=2, layers=2)
    items, _ = sequences(1, 30)
    h = model.encode(items)
    for segment in range(10):
        other = items.clone()
        other[:, 3 * segment] = other[:, 3 * segment] % N + 1
        change = (model.encode(other) - h)[0].abs().amax(1) > 1e-9
        assert change[3 * segment : 3 * segment + 9].all()
        assert not change[3 * segment + 9 :].any()


def test_tokens_are_trained_by_later_events_and_predict_nothing():
    model = make("persrec", segment=4, tokens=3).train()
    items, _ = sequences(1, 4)
    assert model.hidden(items).shape == (1, 4, 12)
    model.hidden(items).sum().backward()
    assert model.tokens.grad is None
    model.hidden(torch.cat([items, items], 1)).square().sum().backward()
    assert (model.tokens.grad.abs().sum(1) > 0).all()


def test_the_state_s_size_is_that_of_one_segment_and_the_kept_tokens():
    model = make("persrec", segment=4, tokens=3, summaries=5)
    assert model.initial_state(1).layers[0].pairs.shape == (1, 5 * 3 + 4 + 3, 2 * 12)
