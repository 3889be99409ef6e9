"""What could go wrong in linear attention's systems: divisors, cuts, random features, past M."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch.nn.functional import elu, normalize

from longrec.checks.mixers import build, events
from longrec.mixers import MIXERS
from longrec.mixers.cosformer import CosformerMixer
from longrec.mixers.efficient_attention import EfficientAttentionMixer
from longrec.mixers.linrec import LinRecMixer
from longrec.mixers.performer import PerformerMixer
from longrec.models import MODELS, build_model
from longrec.ops.attention import naive_attention

FAMILY = ["linear-transformer", "efficient-attention", "linrec", "performer", "cosformer"]
near = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [*FAMILY, "limarec"])
@pytest.mark.parametrize("cuts", [[1], [63], [64], [65], [64, 65, 67, 70]], ids=str)
def test_a_history_cut_beside_chunks_goes_on_as_if_it_were_whole(name, cuts):
    mixer = build(MIXERS[name])
    x = events(131)[0][None]
    whole, last = mixer.prefill(x, mixer.initial_state(1))
    state, rows = mixer.initial_state(1), []
    for begin, end in zip([0, *cuts], [*cuts, 131], strict=True):
        y, state = mixer.prefill(x[:, begin:end], state)
        rows.append(y)
    near(torch.cat(rows, 1), whole)
    near(state, last)


def heads_of(mixer, x):
    """x (T, D) -> q, k and v of each head, (H, T, d), as the mixer projects them."""
    return (
        part.unflatten(-1, (mixer.heads, -1)).transpose(0, 1)
        for part in mixer.inputs(x).chunk(3, -1)
    )


def test_efficient_attention_at_the_last_event_is_the_papers():
    mixer, (x, _) = build(partial(EfficientAttentionMixer, convolution=0)), events(70)
    q, k, v = heads_of(mixer, x)
    paper = q.softmax(-1) @ (k.softmax(1).mT @ v)
    near(mixer(x[None])[0, -1], mixer.output(paper[:, -1].flatten()))


def test_efficient_attention_takes_keys_that_rise_by_e_to_the_50():
    mixer = build(partial(EfficientAttentionMixer, heads=1, convolution=0))
    k = torch.linspace(-25, 25, 200, dtype=torch.float64)[None, None, :, None].expand(
        -1, -1, -1, 12
    )
    q, v = (torch.randn(1, 1, 200, 12, dtype=torch.float64) for _ in range(2))
    past = mixer.initial_state(1)[:2]
    read = lambda kind: mixer.attend(*mixer.maps(q.to(kind), k.to(kind), None), v.to(kind), past)[0]  # noqa: E731
    near(read(torch.float32).double(), read(torch.float64), rtol=1e-4, atol=1e-4)


def test_linrec_at_the_last_event_is_the_papers_and_not_its_codes():
    mixer, (x, _) = build(partial(LinRecMixer, convolution=0)), events(70)
    q, k, v = heads_of(mixer, x)
    q, k = normalize(elu(q), dim=-1), elu(k)
    read = lambda keys: mixer.output((q @ (keys.mT @ v) / 6**0.5)[:, -1].flatten())  # noqa: E731
    last = mixer(x[None])[0, -1]
    near(last, read(normalize(k, dim=1)))  # columns, over events
    assert (last - read(normalize(k, dim=2))).abs().max() > 0.1  # rows, over features


def test_cosformer_past_its_reach_has_no_negative_weight():
    mixer = build(partial(CosformerMixer, heads=1, reach=16, convolution=0))
    one = torch.zeros(1, 1, 40, 12, dtype=torch.float64)
    one[..., 0] = 1
    q, k = mixer.maps(one, one, torch.arange(40)[None])
    weights = (q @ k.mT)[0, 0]
    distance = torch.arange(40)[:, None] - torch.arange(40)
    near(weights[:16, :16], (math.pi / 2 * distance.double() / 16).cos()[:16, :16])  # the paper's
    near(weights[16:, 16:], torch.ones_like(weights[16:, 16:]))
    near(weights[39, :16], weights[15, :16])
    assert (weights > 0).all()


def test_performer_comes_near_softmax_attention():
    mixer = build(partial(PerformerMixer, heads=3, features=4096, convolution=0))
    x = events(40)[0] / 2
    q, k, v = (part.unflatten(-1, (3, -1)) for part in mixer.inputs(x).chunk(3, -1))
    wanted = mixer.output(naive_attention(q, k, v).flatten(1))
    assert (mixer(x[None])[0] - wanted).abs().max() < 0.05 * wanted.abs().max()


def test_performers_directions_are_orthogonal_in_blocks_and_as_long_as_normal_ones():
    w = PerformerMixer(64, heads=4, features=40).directions.double()
    for block in w.split(16):
        products = block @ block.t()
        near(products, products.diagonal().diag(), rtol=1e-4, atol=1e-4)
    assert 12 < w.square().sum(1).mean() < 20


def test_performers_features_are_saved_with_the_weights_and_drawn_once():
    make = lambda: build_model("performer", MODELS["performer"].config_class(), 20)  # noqa: E731
    torch.manual_seed(0)
    model, items = make().eval(), torch.arange(1, 21)[None]
    h = model.encode(items)
    other = make().eval()
    assert not torch.equal(other.mixers[0].directions, model.mixers[0].directions)
    other.load_state_dict(model.state_dict())
    for _ in range(2):
        assert torch.equal(other.encode(items), h)
    other.train().encode(items)
    assert torch.equal(other.eval().encode(items), h)


def test_limarec_scores_by_the_best_of_its_interests():
    config = MODELS["limarec"].config_class(dim=12, interests=3)
    model, items = build_model("limarec", config, 20).eval(), torch.arange(1, 10)[None]
    h = model.encode(items)[:, -1]
    users = model.user_vectors(h)
    assert (h.shape, users.shape) == ((1, 36), (1, 3, 12))
    assert (users[0, 0] - users[0, 1]).abs().max() > 0.01
    products = users[0] @ model.item_vectors().t()
    torch.testing.assert_close(model.score(h)[0, 1:], products.amax(0)[1:])
