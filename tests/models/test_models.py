"""Every registered model: causal, streaming as it says, and never scoring padding."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from models.small_models import SEQUENCE, N, make, near, sequences, small
from torch import nn

from longrec.checks.run import MODEL_CHECKS, TRAINED_CHECKS, run_all
from longrec.checks.trained_model import TrainedModel
from longrec.config.border import make_config
from longrec.core.errors import UsageError
from longrec.mixers import MIXERS, Context, StreamingMixer
from longrec.models import MODELS, SequenceModel, build_model, register_model
from longrec.models.common.base import Model
from longrec.models.common.config import FeedForwardConfig
from longrec.models.elastic import ElasticConfig
from longrec.models.sasrec import SASRecConfig, SASRecRotaryConfig

EXACT = [name for name in SEQUENCE if MODELS[name].streaming == "exact"]
WINDOWED = [name for name in SEQUENCE if MODELS[name].streaming == "windowed"]


def test_what_this_package_promises_is_registered():
    promised = {"elastic", "hydrarec", "sasrec", "sasrec-rotary", "bert4rec"}
    counting = {"popularity", "last-item", "transitions", "recent-popularity", "item-knn", "ease"}
    assert promised | counting | {"hydrarec-bidirectional"} <= set(MODELS)
    assert {"elastic", "hydrarec", "sasrec-rotary"} <= set(EXACT)
    assert {"sasrec", "bert4rec"} <= set(WINDOWED)
    assert MODELS["hydrarec-bidirectional"].streaming == "none"
    assert {name for name in MODELS if make(name).causal} >= {"elastic", "sasrec", "popularity"}
    assert all(cls.name == name for name, cls in MODELS.items())


@pytest.mark.parametrize("name", MODELS)
def test_every_check_of_models_passes(name):
    found = {o.check: o for o in run_all(name, MODEL_CHECKS, small(name))}
    assert [outcome for outcome in found.values() if outcome.result == "failed"] == []
    streams = found["streaming: prefill and step give what encode gives"].result == "passed"
    assert streams == (name in EXACT)
    if streams:  # and the step can be recorded, without a remark why not
        assert found["streaming: the recorded step"].reason == ""


@pytest.mark.parametrize(
    "name",
    [name if name == "hydrarec" else pytest.param(name, marks=pytest.mark.slow) for name in MODELS],
)
def test_every_check_of_trained_models_passes(name):
    with TrainedModel(small(name)) as trained:
        found = list(run_all(name, TRAINED_CHECKS, trained))
    assert [outcome for outcome in found if outcome.result == "failed"] == []


@pytest.mark.parametrize("name", SEQUENCE)
def test_h_after_the_last_event_sees_earlier_ones(name):
    wide = {"sasrec-rotary": {"band": 30}, "persrec": {"segment": 30}}
    model = make(name, layers=1, **wide.get(name, {}))
    items, times = sequences()
    h = model.encode(items, Context(times=times))
    for t in (0, 12, 28):
        other = items.clone()
        other[:, t] = other[:, t] % N + 1
        change = model.encode(other, Context(times=times))[:, -1] - h[:, -1]
        # A recurrent network has forgotten most of it; float64 sees the rest.
        assert (change.abs().amax(1) > 1e-13).all(), f"event {t} changes nothing"


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
    model.count(torch.tensor([2, 2, 3, 3, 2]), torch.tensor([2, 0, 3]))
    scores = model.score(model.encode(torch.tensor([[1], [2]]))[:, -1])
    assert scores.tolist() == [[-torch.inf, 0.0, 3.0, 2.0, 0.0]] * 2


def last_item():
    """Histories 1 2 3 | 2 3 2 4 | 1 2 4: after 2 came 3, 3, 4, 4; after 1, 2 twice; after 3, 2."""
    model = build_model("last-item", MODELS["last-item"].config_class(), 5)
    model.count(torch.tensor([1, 2, 3, 2, 3, 2, 4, 1, 2, 4]), torch.tensor([3, 4, 3]))
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
    items, times = sequences()
    items, ctx = items % 5 + 1, Context(times=times)
    assert torch.equal(
        other.score(other.encode(items, ctx)[:, -1]), model.score(model.encode(items, ctx)[:, -1])
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
    with pytest.raises(UsageError, match=rf"{field} is {value}"):
        make_config(cls, {field: value})


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


@dataclass
class Unfrozen:
    width: int = 1


@pytest.mark.parametrize("of_model", [dict, Unfrozen, None])
def test_a_model_without_a_frozen_config_is_refused(of_model):
    class Nameless(Model):
        config_class = of_model

    with pytest.raises(TypeError, match="must be a frozen dataclass"):
        register_model("nameless")(Nameless)


@dataclass(frozen=True)
class Plain:
    dim: int = 8


def test_a_sequence_model_whose_config_lacks_the_settings_of_all_is_refused():
    class Own(SequenceModel):
        streaming = "exact"
        config_class = Plain

    with pytest.raises(TypeError, match="Plain, must be a subclass of SequenceConfig"):
        register_model("own")(Own)
