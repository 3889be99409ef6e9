"""Every registered model: causal, streaming as it says, and never scoring padding."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace

import pytest
import torch
from models.small_models import SEQUENCE, N, make, near, sequences
from torch import Tensor, nn

from longrec.mixers import MIXERS, Context, StreamingMixer
from longrec.mixers.base import map_state
from longrec.models import MODELS, SequenceModel, build_model, register_model
from longrec.models.common.base import Model
from longrec.models.common.config import FeedForwardConfig
from longrec.models.common.registry import config_keys
from longrec.models.elastic import ElasticConfig
from longrec.models.sasrec import SASRecConfig, SASRecRotaryConfig

EXACT = [name for name in SEQUENCE if MODELS[name].streaming == "exact"]
WINDOWED = [name for name in SEQUENCE if MODELS[name].streaming == "windowed"]


def test_what_this_package_promises_is_registered():
    promised = {"elastic", "hydrarec", "sasrec", "sasrec-rotary", "popularity", "last-item"}
    assert promised | {"bert4rec", "hydrarec-bidirectional"} <= set(MODELS)
    assert {"elastic", "hydrarec", "sasrec-rotary"} <= set(EXACT)
    assert {"sasrec", "bert4rec"} <= set(WINDOWED)
    assert MODELS["hydrarec-bidirectional"].streaming == "none"
    assert {name for name in MODELS if make(name).causal} >= {"elastic", "sasrec", "popularity"}
    assert all(cls.name == name for name, cls in MODELS.items())


@pytest.mark.parametrize("name", MODELS)
def test_config_is_frozen_and_every_setting_has_a_default(name):
    cls = MODELS[name].config_class
    assert is_dataclass(cls)
    assert cls.__dataclass_params__.frozen
    assert config_keys(cls) == {f.name: getattr(cls(), f.name) for f in fields(cls)}
    assert make(name).n_items == N


@pytest.mark.parametrize("name", MODELS)
def test_h_after_an_event_does_not_see_later_ones(name):
    model = make(name)
    items, times = sequences()
    h = model.encode(items, Context(times=times))
    assert h.shape[:2] == items.shape
    for t in (1, 17, 29):
        other, later = items.clone(), times.clone()
        other[:, t:] = other[:, t:] % N + 1
        later[:, t:] += 86_400
        before = model.encode(other, Context(times=later))[:, :t]
        if model.causal:
            near(before, h[:, :t], f"event {t}")
        else:
            assert not torch.allclose(before, h[:, :t]), f"event {t} changes nothing before it"


@pytest.mark.parametrize("name", SEQUENCE)
def test_h_after_the_last_event_sees_earlier_ones(name):
    model = make(name, layers=1, **({"band": 30} if name == "sasrec-rotary" else {}))
    items, times = sequences()
    h = model.encode(items, Context(times=times))
    for t in (0, 12, 28):
        other = items.clone()
        other[:, t] = other[:, t] % N + 1
        change = model.encode(other, Context(times=times))[:, -1] - h[:, -1]
        assert (change.abs().amax(1) > 1e-7).all(), f"event {t} changes nothing"


@pytest.mark.parametrize("name", MODELS)
def test_padding_is_never_scored_and_scores_are_one_per_item(name):
    model = make(name)
    items, _ = sequences()
    scores = model.score(model.encode(items)[:, -1])
    assert scores.shape == (len(items), N + 1)
    assert (scores[:, 0] == -torch.inf).all()
    assert torch.isfinite(scores[:, 1:]).all()


@pytest.mark.parametrize("name", SEQUENCE)
def test_alone_and_padded_are_one(name):
    model = make(name)
    items, times = sequences()
    lengths = torch.tensor([30, 1, 13])
    real = torch.arange(30) < lengths[:, None]
    padded = model.encode(items * real, Context(lengths=lengths, times=times))
    for row, length in enumerate(lengths.tolist()):
        one = slice(row, row + 1), slice(0, length)
        near(model.encode(items[one], Context(times=times[one]))[0], padded[row, :length], "alone")


@pytest.mark.parametrize("name", SEQUENCE)
def test_scores_are_inner_products_with_item_vectors(name):
    model = make(name)
    h = model.encode(sequences()[0])[:, -1]
    users, vectors = model.user_vectors(h), model.item_vectors()
    near((users @ vectors.t()).amax(1)[:, 1:], model.score(h)[:, 1:])
    assert torch.equal(vectors[0], torch.zeros_like(vectors[0]))


@pytest.mark.parametrize("name", EXACT)
def test_streaming_gives_what_encode_gives(name):
    model = make(name)
    items, times = sequences()
    h = model.encode(items, Context(times=times))
    state = model.initial_state(3)
    got, first = [], torch.tensor([9, 0, 4])
    part, state = model.prefill(items[:, :10], state, Context(lengths=first, times=times[:, :10]))
    assert state.count.tolist() == first.tolist()
    assert torch.equal(state.output[1], torch.zeros_like(state.output[1]))
    for row, length in enumerate(first.tolist()):
        near(part[row, :length], h[row, :length], "prefill")
    for step in range(20):
        at = first + step
        rows = torch.arange(3)
        y, state = model.step(items[rows, at], state, Context(times=times[rows, at]))
        near(y, h[rows, at], f"step {step}")
        near(state.output, y)
        assert torch.equal(state.time, times[rows, at])
        got.append(y)
    assert state.count.tolist() == [29, 20, 24]
    # The state after prefill is the one after steps, and of a size that does not grow.
    whole, final = model.prefill(
        items[:1, :29], model.initial_state(1), Context(times=times[:1, :29])
    )
    near(whole, h[:1, :29])
    sizes = []
    map_state(lambda part: sizes.append(part[:1].shape) or part, final)
    mine = map_state(lambda part: part[:1], state)
    for part, other in zip(flat(mine), flat(final), strict=True):
        near(part.double(), other.double(), "state")
    start = []
    map_state(lambda part: start.append(part[:1].shape) or part, model.initial_state(1))
    assert sizes == start


def flat(state) -> list[Tensor]:
    found: list[Tensor] = []
    map_state(lambda part: found.append(part) or part, state)
    return found


@pytest.mark.parametrize("name", EXACT)
def test_times_before_1970_and_late_events(name):
    model = make(name)
    state = model.initial_state(1)
    for item, time, wanted in ((3, -500, -500), (4, -300, -300), (5, -400, -300)):
        _, state = model.step(torch.tensor([item]), state, Context(times=torch.tensor([time])))
        assert state.time.tolist() == [wanted]


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_all_forms_run_in_every_float_type(name, kind):
    model = make(name, kind)
    items, times = sequences()
    h = model.encode(items, Context(times=times))
    part, state = model.prefill(items[:, :20], model.initial_state(3), Context(times=times[:, :20]))
    y, _ = model.step(items[:, 20], state, Context(times=times[:, 20]))
    assert h.dtype == part.dtype == y.dtype == kind
    limit = 1e-4 if kind == torch.float32 else 0.3
    assert (y - h[:, 20]).abs().max() < limit


@pytest.mark.parametrize("name", sorted({*SEQUENCE} - {*EXACT}))
def test_models_without_a_state_say_how_they_are_served_and_what_streams(name):
    model = make(name)
    assert model.streams_as in EXACT
    limit = model.max_length
    how = "the whole history" if limit is None else f"the last {limit} events"
    mend = f"^{name} .*: it is served by reading {how} again. For a stream, train "
    items, _ = sequences()
    state = make("hydrarec").initial_state(3)
    for call in (
        lambda: model.initial_state(2),
        lambda: model.prefill(items, state),
        lambda: model.step(items[:, 0], state),
    ):
        with pytest.raises(ValueError, match=f"{mend}{model.streams_as}$") as refusal:
            call()
        assert ("sees later events" in str(refusal.value)) == (not model.causal)


def test_sasrec_positions_count_from_the_last_event():
    model = make("sasrec", max_length=8)
    items, _ = sequences(1, 5)
    embedded = model.embed(items, Context())
    plain = torch.nn.functional.embedding(items, model.items) * 12**0.5
    near(embedded - plain, model.positions[None, 3:])
    short = model.embed(items, Context(lengths=torch.tensor([2])))
    near((short - plain)[:, :2], model.positions[None, 6:])
    # So the same last events at the end of the table mean the same, however padded.
    with pytest.raises(ValueError, match="a row has 9 events; max_length is 8"):
        model.encode(torch.ones(1, 9, dtype=torch.int64))


def test_popularity_by_hand():
    model = build_model("popularity", MODELS["popularity"].config_class(), 4)
    model.count(torch.tensor([0, 2, 2, 0, 3]), torch.tensor([2, 2, 3, 3, 2]))
    scores = model.score(model.encode(torch.tensor([[1], [2]]))[:, -1])
    assert scores.tolist() == [[-torch.inf, 0.0, 3.0, 2.0, 0.0]] * 2


def last_item():
    """Histories 1 2 3 | 2 3 2 4 | 1 2 4: after 2 came 3, 3, 4, 4; after 1, 2 twice; after 3, 2."""
    model = build_model("last-item", MODELS["last-item"].config_class(), 5)
    model.count(
        torch.tensor([0, 1, 2, 0, 2, 3, 2, 0, 1, 2]), torch.tensor([1, 2, 3, 2, 3, 2, 4, 1, 2, 4])
    )
    return model


def test_last_item_by_hand():
    scores = last_item().score(torch.tensor([[2], [1], [5]]))
    popularity = torch.tensor([0, 2, 4, 2, 2, 0]) / 11
    wanted = torch.stack([popularity, popularity, popularity])
    wanted[0, 3] += 2
    wanted[0, 4] += 2
    wanted[1, 2] += 2
    wanted[:, 0] = -torch.inf
    torch.testing.assert_close(scores.float(), wanted.float())


def test_popularity_parts_followers_in_large_logs():
    model = last_item()
    model.counts = torch.tensor([0.0, 1e9, 5e9, 4000.0, 4001.0, 7.0])
    scores = model.score(torch.tensor([[2]]))[0]
    assert scores[4] > scores[3] > scores[2]


@pytest.mark.parametrize("name", MODELS)
def test_weights_and_counts_survive_saving(name, tmp_path):
    from safetensors.torch import load_file, save_file

    model = last_item() if name == "last-item" else make(name, torch.float32)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    other = build_model(name, model.config, model.n_items).eval()
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    items = sequences()[0] % 5 + 1
    assert torch.equal(
        other.score(other.encode(items)[:, -1]), model.score(model.encode(items)[:, -1])
    )


BAD = [
    (ElasticConfig, "dim", 0),
    (ElasticConfig, "layers", 0),
    (ElasticConfig, "ffn_dim", -1),
    (ElasticConfig, "dropout", 1.0),
    (ElasticConfig, "heads", 5),
    (ElasticConfig, "heads", 0),
    (ElasticConfig, "experts", 0),
    (ElasticConfig, "chunk", 49),
    (ElasticConfig, "half_life_min", 4000.0),
    (ElasticConfig, "time_scale", 0.0),
    (ElasticConfig, "convolution", -1),
    (SASRecConfig, "max_length", 0),
    (SASRecRotaryConfig, "band", 0),
    (MODELS["hydrarec"].config_class, "convolution", -1),
    (MODELS["bert4rec"].config_class, "max_length", 0),
    (MODELS["bert4rec"].config_class, "heads", 5),
    (MODELS["hydrarec-bidirectional"].config_class, "layers", 0),
]


@pytest.mark.parametrize(("cls", "field", "value"), BAD)
def test_a_bad_setting_is_named_with_its_value(cls, field, value):
    with pytest.raises(ValueError, match=rf"{field} is {value}"):
        replace(cls(), **{field: value})


def test_rotary_needs_pairs():
    with pytest.raises(ValueError, match="rotary needs it even"):
        SASRecRotaryConfig(dim=6, heads=2)


@dataclass(frozen=True)
class ToyConfig(FeedForwardConfig):
    dim: int = 8


class ToyMixer(StreamingMixer):
    """Sum of all events so far."""

    linear = True

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.output = nn.Linear(dim, dim)

    def initial_state(self, batch):
        return (self.output.weight.new_zeros(batch, len(self.output.weight)),)

    def prefill(self, x, state, ctx=Context()):  # noqa: B008
        mask = ctx.mask(x)
        sums = state[0][:, None] + (x if mask is None else x * mask[..., None]).cumsum(1)
        return self.output(sums), (sums[:, -1],)

    def step(self, x, state, ctx=Context()):  # noqa: B008
        return self.output(state[0] + x), (state[0] + x,)


def test_a_new_mechanism_is_one_class_and_its_registration(monkeypatch):
    monkeypatch.setattr(MODELS, "data", dict(MODELS))

    @register_model("toy")
    class Toy(SequenceModel):
        streaming = "exact"
        config_class = ToyConfig

        def __init__(self, config: ToyConfig, n_items: int) -> None:
            super().__init__(config, n_items, [ToyMixer(config.dim)])

    model = build_model("toy", ToyConfig(), N).eval()
    items, _ = sequences()
    h = model.encode(items)
    y, state = model.prefill(items[:, :29], model.initial_state(3))
    last, _ = model.step(items[:, 29], state)
    torch.testing.assert_close(torch.cat([y, last[:, None]], 1), h, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="'toy' is registered already"):
        register_model("toy")(Toy)
    assert "toy" not in MIXERS


def test_a_model_without_a_config_is_refused():
    class Nameless(Model):
        config_class = dict

    with pytest.raises(TypeError, match="must be a frozen dataclass"):
        register_model("nameless")(Nameless)


@pytest.mark.parametrize("name", MODELS)
def test_weights_are_contiguous(name):
    """A fused optimiser whose state was saved and loaded would pair strided weights wrongly."""
    for key, tensor in make(name).state_dict().items():
        assert tensor.is_contiguous(), key
