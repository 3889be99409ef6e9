"""Models of windows of fixed length: places, padding in front, what released code misses."""

from __future__ import annotations

import pytest
import torch
from mixers.definitions import examples_of
from models.small_models import make, near, sequences

from longrec.checks.compare import CheckFailed
from longrec.checks.mixers import check_linear
from longrec.mixers import Context
from longrec.mixers.fmlp_rec import FilterMixer
from longrec.mixers.lightsans import LightSANsMixer
from longrec.mixers.linformer import LinformerMixer
from longrec.mixers.softmax import BidirectionalSoftmaxMixer
from longrec.mixers.wearec import WaveletFilterMixer

FIXED = ["linformer", "lightsans", "fmlp-rec", "wearec"]
FULL = ["fmlp-rec", "wearec"]


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("longest", [1, 8, 9])
def test_a_window_has_place_for_all_its_events_and_one_mask(name, longest):
    items, _ = sequences(1, longest + 1)
    for targets, masks in (("masked", 1), ("last", 0)):
        model = make(name, max_length=longest, targets=targets)
        assert model.encode(items[:, :longest]).shape == (1, longest, 12)
        with pytest.raises(ValueError, match=f"{longest + 1 + masks} "):
            model.encode(items)
        # In a batch that is padded beyond the window, too.
        wide = torch.nn.functional.pad(items[:, :longest], (0, 5))
        h = model.encode(wide, Context(torch.tensor([longest])))
        near(h[:, :longest], model.encode(items[:, :longest]))


@pytest.mark.parametrize("name", FULL)
def test_a_window_is_what_the_papers_pad(name):
    model = make(name, max_length=10)
    items, _ = sequences(1, 4)
    x = torch.cat([torch.zeros(1, 6, dtype=torch.int64), items], 1)
    # As published: padding is an item like any other, at places 0 .. 5.
    x = model.embedding_norm(
        torch.nn.functional.embedding(x, model.items) * 12**0.5 + model.positions
    )
    for block in model.blocks:
        x = block(x, Context())
    near(model.encode(items), x[:, 6:])


@pytest.mark.parametrize("name", FULL)
def test_how_much_room_is_left_matters_and_what_lies_in_padding_does_not(name):
    items, _ = sequences(1, 6)
    model = make(name, max_length=10)
    whole, later = model.encode(items), model.encode(items[:, 1:])
    assert not torch.allclose(whole[:, -1], later[:, -1])
    for rubbish in (0, 7):
        wide = torch.nn.functional.pad(items, (0, 3), value=rubbish)
        near(model.encode(wide, Context(torch.tensor([6])))[:, :6], whole)


def test_dropout_of_empty_places_is_drawn_for_each_row():
    model = make("fmlp-rec", max_length=10, dropout=0.5).train()
    model.blocks = torch.nn.ModuleList()
    seen = []
    model.blocks.append(torch.nn.Module())
    model.blocks[0].forward = lambda x, ctx: seen.append(x) or x
    model.hidden(torch.ones(2, 1, dtype=torch.int64))
    assert not torch.equal(seen[0][0, :9], seen[0][1, :9])


def test_weights_of_attention_sum_to_one_for_every_event():
    # Values that are all alike come out as they are, twice from LightSANs: the released code, whose
    # softmax runs over the queries, gives events of a long history next to nothing.
    x = torch.ones(2, 9, 4).double()
    mixer = LightSANsMixer(4, 2, interests=3, max_length=12).double()
    value = mixer.inputs.weight.chunk(3)[2] @ x[0, 0]
    for lengths in (None, torch.tensor([9, 2])):
        y = mixer(x, Context(lengths))
        near(y[0], (2 * mixer.output.weight @ value).expand(9, -1))
        near(y[1, :2], y[0, :2])


def test_linformer_reads_the_last_columns_of_its_window():
    mixer = LinformerMixer(4, 1, rank=2, max_length=9).double()
    x = torch.randn(1, 5, 4).double()
    y = mixer(x)
    mixer.key_sums.data[:, :4] = mixer.value_sums.data[:, :4] = torch.nan
    near(mixer(x), y)
    mixer.value_sums.data[:, 8] += 1
    assert not torch.allclose(mixer(x), y)


def test_wearec_pairs_the_newest_events_in_windows_of_an_odd_number_of_places():
    mixer = WaveletFilterMixer(4, 2, alpha=0.3, max_length=9).double()
    with torch.no_grad():
        for part in (mixer.gain, mixer.offset, mixer.detail, *mixer.context.parameters()):
            part.zero_()
    x = torch.randn(1, 9, 4).double()
    y = mixer(x) / (1 - mixer.alpha)  # means of pairs alone
    near(y[:, 7], (x[:, 7] + x[:, 8]) / 2)
    near(y[:, 8], y[:, 7])
    near(y[:, 0], x[:, 0] / 2)  # beside the empty place in front


def test_lightsans_layers_read_one_table_of_places():
    model = make("lightsans")
    assert [key for key in model.state_dict() if "positions" in key] == ["positions"]
    with pytest.raises(ValueError, match="no positions of its own"):
        model.blocks[0].mixer(torch.zeros(1, 2, 12).double())
    near(model.encode(torch.zeros(2, 0, dtype=torch.int64)), torch.zeros(2, 0, 12).double())


def test_a_mixer_of_few_events_is_counted_up_to_as_many():
    class Short(BidirectionalSoftmaxMixer):
        linear = True
        max_length = 640

        def forward(self, x, ctx=Context()):  # noqa: B008
            assert x.shape[1] <= self.max_length
            return super().forward(x, ctx)

    with pytest.raises(CheckFailed, match="operations grow"):
        check_linear(Short)
    check_linear(examples_of("linformer")["long"])


def wave(*shape: int) -> torch.Tensor:
    """Numbers without a pattern, the same everywhere."""
    size = torch.Size(shape).numel()
    return (torch.arange(size, dtype=torch.float64) ** 2 * 0.7).sin().view(shape)


PUBLISHED = {
    "fmlp-rec": [-0.26879602, 1.51945235, -1.27222175, 0.02156542],
    "wearec": [-0.51746609, 1.72710311, -0.69898017, -0.51065684],
}
"""The last event's output of the authors' layers with weights of `wave`, printed by them."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_layers_give_what_the_authors_layers_give(name):
    mixer = {
        "fmlp-rec": FilterMixer(4, 6),
        "wearec": WaveletFilterMixer(4, 2, alpha=0.3, max_length=6),
    }[name].double()
    for number, part in enumerate(mixer.parameters()):
        part.data = wave(*part.shape) + 0.1 * number
    got = torch.nn.functional.layer_norm(wave(1, 6, 4) + mixer(wave(1, 6, 4)), (4,), eps=1e-12)
    torch.testing.assert_close(
        got[0, -1], torch.tensor(PUBLISHED[name]).double(), atol=1e-6, rtol=0
    )
