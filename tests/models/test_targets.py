"""What models are trained to predict: masks that stand for events, and who is refused what."""

from __future__ import annotations

import pytest
import torch
from models.small_models import SEQUENCE, N, make, near, sequences
from torch import nn

from longrec.core.errors import UsageError
from longrec.mixers import Context
from longrec.mixers.product_keys import InterestMemory
from longrec.models.common.settings import parse_settings

BIDIRECTIONAL = [name for name in SEQUENCE if not make(name).causal]
CAUSAL = [name for name in SEQUENCE if make(name).causal]
LENGTHS = torch.tensor([30, 1, 13])


def test_both_kinds_are_here():
    assert {"bert4rec", "hydrarec-bidirectional"} <= set(BIDIRECTIONAL)
    assert {"elastic", "hydrarec", "sasrec", "sasrec-rotary"} <= set(CAUSAL)


@pytest.mark.parametrize("name", BIDIRECTIONAL)
def test_the_last_h_is_read_from_a_mask_put_after_the_row(name):
    model = make(name, targets="masked")
    items, times = sequences()
    h = model.encode(items, Context(lengths=LENGTHS, times=times))
    assert h.shape[:2] == items.shape
    for row, length in enumerate(LENGTHS.tolist()):
        longer = torch.cat([items[row, :length], torch.tensor([7])])[None]  # 7 is under the mask
        clock = torch.cat([times[row, :length], times[row, length - 1 : length]])[None]
        masked = torch.arange(length + 1)[None] == length
        wanted = model.hidden(longer, Context(times=clock), masked)[0]
        near(h[row, length - 1], wanted[length], "the mask's")
        near(h[row, : length - 1], wanted[: length - 1], "the events'")
        alone = model.encode(
            items[row : row + 1, :length], Context(times=times[row, None, :length])
        )
        near(alone[0], h[row, :length], "alone")


@pytest.mark.parametrize("name", BIDIRECTIONAL)
def test_what_a_mask_hides_is_never_read(name):
    model = make(name, targets="masked")
    items, times = sequences()
    masked = torch.zeros_like(items, dtype=torch.bool)
    masked[0, [0, 4]] = masked[1, 29] = masked[2] = True
    ctx = Context(times=times)
    h = model.hidden(items, ctx, masked)
    other = torch.where(masked, items % N + 1, items)
    assert torch.equal(model.hidden(other, ctx, masked), h)
    assert not torch.allclose(model.hidden(items, ctx), h)
    h[1, 29, 0].backward()  # all features together sum to 0 after LayerNorm
    hidden_only = set(items[1, 29:].tolist()) - set(items[1, :29].tolist())
    assert all(model.items.grad[item].abs().sum() == 0 for item in hidden_only)
    assert model.items.grad[items[1, 3]].abs().sum() > 0
    assert model.mask.grad.abs().sum() > 0


@pytest.mark.parametrize("name", BIDIRECTIONAL)
def test_the_mask_takes_the_last_events_time_and_has_no_columns(name, monkeypatch):
    model, seen = make(name, targets="masked"), []
    monkeypatch.setattr(
        model, "embed", lambda items, ctx, masked: seen.append((ctx, masked)) or model.items[items]
    )
    times, types = torch.tensor([[5, 8, 0], [3, 4, 9]]), torch.tensor([[1, 2, 0], [1, 1, 3]])
    items = torch.tensor([[1, 2, 0], [3, 4, 5]])
    columns = {"type": types, "weight": types.float()}
    model.encode(items, Context(torch.tensor([2, 3]), times, columns))
    ((ctx, masked),) = seen
    assert masked.int().tolist() == [[0, 0, 1, 0], [0, 0, 0, 1]]
    assert ctx.lengths.tolist() == [3, 4]
    assert ctx.times[0, :3].tolist() == [5, 8, 8]
    assert ctx.times[1].tolist() == [3, 4, 9, 9]
    assert ctx.types[0, :3].tolist() == [1, 2, -1]
    assert ctx.types[1].tolist() == [1, 1, 3, -1]
    assert ctx.columns["weight"][1].tolist() == [1, 1, 3, 0]


@pytest.mark.parametrize("name", BIDIRECTIONAL)
def test_a_row_without_events_spoils_nothing(name):
    items, times = sequences()
    for targets in ("masked", "last"):
        model = make(name, targets=targets)
        h = model.encode(items, Context(torch.tensor([0, 30, 5]), times))
        assert torch.isfinite(h).all()
        h[1:, 0, :3].sum().backward()
        for key, part in model.named_parameters():
            assert part.grad is None or torch.isfinite(part.grad.to_dense()).all(), key
        near(h[1], model.encode(items[1:2], Context(times=times[1:2]))[0])


@pytest.mark.parametrize("name", SEQUENCE)
def test_last_targets_read_no_mask_and_have_none(name):
    model = make(name, targets="last")
    assert not hasattr(model, "mask")
    items, times = sequences()
    ctx = Context(lengths=LENGTHS, times=times)
    assert torch.equal(model.encode(items, ctx), model.hidden(items, ctx))
    if name in BIDIRECTIONAL:
        assert hasattr(make(name, targets="masked"), "mask")


def test_bert4rec_reads_max_length_events_and_one_mask():
    items, _ = sequences(1, 9)
    masked = make("bert4rec", max_length=8)
    assert len(masked.positions) == 9
    assert masked.encode(items[:, :8]).shape == (1, 8, 12)
    with pytest.raises(ValueError, match="10 events with its mask; max_length is 8 and a mask"):
        masked.encode(items)
    last = make("bert4rec", max_length=8, targets="last")
    assert len(last.positions) == 8
    with pytest.raises(ValueError, match="a row has 9 events; max_length is 8"):
        last.encode(items)


@pytest.mark.parametrize("name", BIDIRECTIONAL)
def test_bidirectional_models_refuse_to_be_trained_on_each_next_item(name):
    wanted = f"targets is 'next', but {name} sees later events, so that predicting each next item"
    with pytest.raises(UsageError, match=f"{wanted} .*: use targets=masked or targets=last"):
        parse_settings(name, {"targets": "next"})


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_models_refuse_masks(name):
    wanted = f"targets is 'masked', but {name} sees no later events: use targets=next or targets=l"
    with pytest.raises(UsageError, match=wanted):
        parse_settings(name, {"targets": "masked"})


def test_sparse_tables_are_the_slots_of_large_memory_banks():
    model = make("hydrarec")
    assert model.sparse_tables() == []
    model.banks = nn.ModuleList([InterestMemory(12, 4, 2), InterestMemory(12, 4, 2)])
    model.banks[0].sparse, model.banks[1].sparse = False, True
    assert model.sparse_tables() == ["banks.1.slots"]
    assert "banks.1.slots" in dict(model.named_parameters())
