"""ELASTIC as published and with its memory bank, beside the formulas."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from mixers.definitions import define_memory
from torch import Tensor

from longrec.checks.mixers import cost_of
from longrec.config.border import make_config
from longrec.core.errors import UsageError
from longrec.mixers import Context
from longrec.mixers.base import map_state
from longrec.mixers.dispatcher_memory import MemoryDispatcherMixer
from longrec.mixers.product_keys import watch_usage
from longrec.models import build_model
from longrec.models.elastic import Elastic, ElasticConfig
from longrec.models.elastic_paper import ElasticPaper, ElasticPaperConfig

N = 40
SMALL = {"dim": 12, "ffn_dim": 16, "heads": 2}


def elastic(**settings) -> Elastic:
    torch.manual_seed(0)
    config = ElasticConfig(
        **SMALL, experts=3, memory_slots=64, memory_topk=4, memory_every=8, **settings
    )
    model = build_model("elastic", config, N).double().eval()
    for block in model.blocks:
        if hasattr(block.mixer, "recall"):
            torch.nn.init.normal_(block.mixer.recall.weight)  # it starts by saying nothing
    return model


def paper(**settings) -> ElasticPaper:
    torch.manual_seed(0)
    config = ElasticPaperConfig(**SMALL, **{"memory_slots": 64, "memory_topk": 4} | settings)
    return build_model("elastic-paper", config, N).double().eval()


def sequences(batch: int = 3, events: int = 50) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    items = torch.randint(1, N + 1, (batch, events), generator=random)
    return items, torch.randint(0, 9999, (batch, events), generator=random).cumsum(1)


def test_the_memory_bank_stands_in_the_last_layer():
    keys = {k.partition(".memory.")[0] for k in elastic().state_dict() if ".memory." in k}
    assert keys == {"blocks.1.mixer"}
    assert not [k for k in build_model("elastic", ElasticConfig(), N).state_dict() if "memory" in k]


def test_streaming_with_a_memory_bank_is_what_the_whole_history_gives():
    model = elastic()
    items, times = sequences()
    h = model.encode(items, Context(times=times))
    for cuts in ([50], [8, 8, 34], [3, 5, 17, 25]):
        state, got, first = model.initial_state(3), [], 0
        for size in cuts:
            part = slice(first, first + size)
            out, state = model.prefill(items[:, part], state, Context(times=times[:, part]))
            got.append(out)
            first += size
        torch.testing.assert_close(torch.cat(got, 1), h, rtol=1e-9, atol=1e-9)
    steps, stepped = [], model.initial_state(3)
    for t in range(50):
        out, stepped = model.step(items[:, t], stepped, Context(times=times[:, t]))
        steps.append(out)
    torch.testing.assert_close(torch.stack(steps, 1), h, rtol=1e-9, atol=1e-9)
    sizes: list[int] = []
    map_state(lambda part: sizes.append(part[:1].nbytes) or part, stepped)
    before: list[int] = []
    map_state(lambda part: before.append(part[:1].nbytes) or part, model.initial_state(1))
    assert sum(sizes) == sum(before)


def test_the_memory_bank_is_asked_once_per_memory_every_events():
    model = elastic()
    items, _ = sequences(2, 50)
    with watch_usage(model) as usage:
        model.encode(items, Context(lengths=torch.tensor([50, 15])))
    assert usage.counts.sum() == 4 * (50 // 8 + 15 // 8)


def test_what_is_remembered_reaches_later_outputs_only():
    model = elastic()
    items, _ = sequences()
    before = model.encode(items)
    with torch.no_grad():
        model.blocks[1].mixer.memory.slots.normal_()
    after = model.encode(items)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 7:], after[:, 7:])


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention with two heads of width 6, without its projections."""
    heads = (slice(0, 6), slice(6, 12))
    return torch.cat([(q[:, h] @ k[:, h].t() / 6**0.5).softmax(1) @ v[:, h] for h in heads], 1)


def by_hand(model: ElasticPaper, items: Tensor) -> Tensor:
    """h of the mask after one whole history (T,), as the paper writes it."""
    x = torch.cat([model.items[items], model.mask[None]]) * 12**0.5
    x = x + model.positions.weight[model.positions.buckets(torch.arange(len(x)).flip(0))]
    if model.memory is None:
        p = model.experts
    else:
        read = define_memory(model.memory, x[:-1].mean(0, keepdim=True))
        p = model.memory.norm(model.memory.slots[read.indices[0]]) * read.weights[0][:, None]
    for block in model.blocks:
        mixer = block.mixer
        seen = block.before(x)
        k1, v1, q2 = mixer.inputs(seen).chunk(3, -1)
        new = attend(mixer.aim(p), k1, v1)
        k2, v2 = mixer.gathered(new).chunk(2, -1)
        x = x + attend(q2, k2, v2)
        x = x + block.ffn(x)
        p = p + new if model.config.expert_residual else new
    return model.norm(x[-1])


@pytest.mark.parametrize(
    "settings",
    [{}, {"memory_slots": 0, "experts": 5}, {"expert_residual": True, "layers": 3}],
    ids=["memory", "no memory", "residual"],
)
def test_elastic_paper_is_its_formulas(settings):
    model = paper(**settings)
    items, _ = sequences()
    got = model.encode(items)[:, -1]
    wanted = torch.stack([by_hand(model, row) for row in items])
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


def test_what_is_masked_asks_the_bank_nothing():
    model = paper()
    items, _ = sequences()
    masked = torch.zeros_like(items, dtype=torch.bool)
    masked[:, [3, 20, 49]] = True
    h = model.hidden(items, masked=masked)
    other = items.clone()
    other[masked] = other[masked] % N + 1
    torch.testing.assert_close(model.hidden(other, masked=masked), h)


def test_a_history_that_is_masked_altogether_still_gives_numbers():
    model = paper()
    h = model.hidden(torch.tensor([[3, 4]]), masked=torch.ones(1, 2, dtype=torch.bool))
    assert torch.isfinite(h).all()


def test_settings_are_checked_by_name():
    with pytest.raises(ValueError, match="memory_slots is 1000; product keys need a square"):
        ElasticConfig(memory_slots=1000)
    with pytest.raises(ValueError, match="memory_topk is 300"):
        ElasticPaperConfig(memory_slots=256, memory_topk=300)
    with pytest.raises(UsageError, match="memory_every is 0; it must be in"):
        make_config(ElasticConfig, {"memory_slots": 256, "memory_every": 0})
    with pytest.raises(ValueError, match=r"elastic-paper.*train elastic"):
        paper().initial_state(1)


def test_rare_retrievals_take_no_more_memory_than_the_events():
    torch.manual_seed(0)
    make = partial(MemoryDispatcherMixer, slots=64, topk=4)
    often, rare = (cost_of(partial(make, every=n), 512, backward=False) for n in (64, 10**9))
    assert rare.written < 2 * often.written
