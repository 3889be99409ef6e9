"""What is searched of a setting, as text says it, and what a model declares."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from longrec.config.training import TrainConfig
from longrec.core.errors import UsageError
from longrec.models import MODELS
from longrec.models.elastic import ElasticConfig
from longrec.tuning.results import best_settings
from longrec.tuning.space import space_of
from longrec.tuning.study import Trial
from longrec.tuning.values import Choices, Range, parse_search, values_of


@pytest.mark.parametrize(
    ("key", "text", "begin", "wanted"),
    [
        ("dropout", "0..0.5", 0.2, Range(0.0, 0.5, whole=False)),
        ("layers", "1..4", 2, Range(1, 4, whole=True)),
        ("dim", "x0.5,x1,x2", 48, Choices((24, 48, 96))),
        ("layers", "x0.1..x2", 2, Range(1, 4, whole=True)),
        ("experts", "", 16, Range(8, 32, whole=True)),
        ("forgetting", "", "events", Choices(("events", "time", "none"))),
        ("memory_guard", "", True, Choices((True, False))),
        ("memory_guard", "true,false", True, Choices((True, False))),
    ],
)
def test_text_says_what_is_tried(key, text, begin, wanted):
    assert values_of(ElasticConfig, key, text, begin) == wanted


def test_a_range_whose_ends_are_far_apart_goes_by_the_logarithm():
    assert values_of(TrainConfig, "learning_rate", "3e-4..3e-3", 1e-3).by_log
    assert not values_of(TrainConfig, "learning_rate", "1e-3..3e-3", 1e-3).by_log
    assert not values_of(ElasticConfig, "dropout", "0..0.6", 0.2).by_log


@pytest.mark.parametrize(
    ("key", "text", "begin", "words"),
    [
        ("dropout", "0.5..0.1", 0.2, "to a larger one"),
        ("dropout", "0..2", 0.2, "dropout is 2; it must be in"),
        ("dim", "64", 64, "that is one value; fix it"),
        ("dim", "8..x", 64, "dim is 'x'"),
        ("time_scale", "x0..x2", 3600.0, "must be above 0"),
        ("forgetting", "x2,x3", "events", "and no number"),
    ],
)
def test_what_does_not_fit_is_said_with_the_key(key, text, begin, words):
    with pytest.raises(UsageError, match=f"search {key}") as error:
        values_of(ElasticConfig, key, text, begin)
    assert words in str(error.value)


def test_texts_are_taken_apart():
    assert parse_search(["dim=32,64", "experts"]) == {"dim": "32,64", "experts": ""}
    for wrong in (["dim="], ["=3"], ["dim=1,2", "dim=3,4"]):
        with pytest.raises(UsageError):
            parse_search(wrong)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_what_a_model_declares_fits_it_and_holds_its_defaults(name):
    if not MODELS[name].searched:
        with pytest.raises(UsageError, match="nothing to search"):
            space_of(name, {}, {}, {})
        return
    space = space_of(name, {}, {}, {})
    assert {*MODELS[name].searched} <= {*space.searched}
    for key, values in space.searched.items():
        assert space.begin[key] in values, key


def test_what_is_fixed_is_not_searched_and_what_is_given_begins():
    space = space_of("elastic", {"dim": 32}, {"dropout": 0.1}, {})
    assert "dropout" not in space.searched
    assert space.searched["dim"] == Choices((16, 32, 64, 128))
    assert space.begin["dropout"] == 0.1
    with pytest.raises(UsageError, match="both searched and fixed"):
        space_of("elastic", {}, {"dim": 32}, {"dim": "32,64"})
    with pytest.raises(UsageError, match="search names experts, none of which hydrarec has"):
        space_of("hydrarec", {}, {}, {"experts": "2,4"})
    with pytest.raises(UsageError, match="learns from nobody"):
        space_of("transitions", {}, {"teachers": "a"}, {})
    with pytest.raises(UsageError, match="the same targets"):
        space_of("elastic", {}, {}, {"cut": "2018-01-01,2019-01-01"})


@pytest.mark.parametrize(
    ("fixed", "with_times", "begins", "told"),
    [
        ({}, [True], True, {}),
        ({}, [False], False, {}),
        ({}, [True, False], False, {"gaps": False}),
        ({"gaps": False}, [True], False, {"gaps": False}),
    ],
)
def test_a_search_begins_with_what_a_training_on_its_logs_has(fixed, with_times, begins, told):
    space = space_of("elastic", {}, fixed, {}, with_times)
    assert space.begin["gaps"] is begins
    first = Trial(0, "elastic", space.begin, True, "ended", 0.0, {})
    assert best_settings(space, first) == told


def test_what_the_recipe_chose_gives_way_to_what_is_searched():
    by_recipe = {"loss": "sampled", "negatives": 2048}
    space = space_of("elastic", {}, {}, {"loss": "full,sampled"}, by_recipe=by_recipe)
    for loss, negatives in (("full", 512), ("sampled", 2048)):
        drawn = SimpleNamespace(suggest_categorical=lambda *_, loss=loss: loss)
        found = space.draw(drawn, begins=False)
        assert (found["loss"], found["negatives"]) == (loss, negatives)
    space = space_of("elastic", {}, {"negatives": 2048, "loss": "sampled"}, {"dropout": "0,0.1"})
    kept = {**space.begin, "loss": "full"}
    assert space.fitting(kept) == kept, "what is fixed stays, and is refused"


def test_what_belongs_to_the_width_grows_with_it():
    wide = {"dim": 128}
    space = space_of("elastic", {}, {}, {"dim": "64,128"})
    grown = space.with_width({**space.begin, **wide})
    assert (grown["ffn_dim"], grown["heads"]) == (512, 4)
    space = space_of("elastic", {}, {"ffn_dim": 100}, {"dim": "64,128", "heads": "1,2"})
    grown = space.with_width({**space.begin, **wide})
    assert (grown["ffn_dim"], grown["heads"]) == (100, 2)
    space = space_of("dfar", {}, {"loss": "sampled"}, {"dim": "32,64"})
    grown = space.with_width({**space.begin, "dim": 32})
    assert (grown["ffn_dim"], grown["heads"]) == (128, 2), "one head would be refused"
    chosen = {"dim": 128, "ffn_dim": 512, "heads": 4}
    space = space_of("elastic", {}, {}, {"dim": "x0.5,x1"}, (), chosen)
    grown = space.with_width({**space.begin, "dim": 64})
    assert (grown["ffn_dim"], grown["heads"]) == (256, 2), "nobody gave what was chosen"
