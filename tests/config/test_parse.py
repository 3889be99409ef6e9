"""Settings at the border: text and values in, checked configs or a message that helps out."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from longrec.config.training import TrainConfig
from longrec.core.errors import UsageError
from longrec.models import MODELS, build_model
from longrec.models.common.settings import (
    check_model,
    parse_assignments,
    parse_settings,
)
from longrec.runs.describe import describe_model, describe_models


def test_keys_find_their_config_and_text_its_type():
    model, training = parse_settings(
        "elastic", {"dim": "32", "dropout": "0", "learning_rate": "1e-2", "max_epochs": 3}
    )
    assert (model.dim, model.dropout) == (32, 0.0)
    assert (training.learning_rate, training.max_epochs) == (0.01, 3)
    assert isinstance(model.dim, int)


@pytest.mark.parametrize("word", ["none", "None", "null", None])
def test_none_can_be_written(word):
    assert parse_settings("elastic", {"context": word})[1].context is None


def test_a_value_named_none_is_not_the_word_for_nothing():
    assert parse_settings("elastic", {"forgetting": "none"})[0].forgetting == "none"


@pytest.mark.parametrize("name", sorted(MODELS))
def test_defaults_survive_json(name):
    model, training = parse_settings(name, {})
    written = json.loads(json.dumps(asdict(model) | asdict(training)))
    assert parse_settings(name, written) == (model, training)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_is_described_and_builds_from_its_defaults(name):
    entry = describe_model(name)
    json.dumps(entry)
    assert entry["summary"]
    keys = {row["key"]: row["default"] for row in entry["model_settings"]}
    assert keys == asdict(parse_settings(name, {})[0])
    assert {row["key"] for row in entry["training_settings"]} == set(asdict(TrainConfig()))
    assert build_model(name, parse_settings(name, {})[0], 5).n_items == 5
    assert name in [row["model"] for row in describe_models()]


def test_keys_of_two_configs_never_collide():
    training = set(asdict(TrainConfig()))
    for name in MODELS:
        assert not training & set(asdict(parse_settings(name, {})[0])), name


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"dims": 8}, ["'dims'", "Did you mean dim? (`longrec models elastic` lists"]),
        ({"zzz": 8}, ["'zzz'", "Its settings: chunk, ", "Settings of training: average, "]),
        ({"dim": "wide"}, ["dim is 'wide'", "integer"]),
        ({"dim": "8.5"}, ["dim is '8.5'", "integer, in [1, 65536]"]),
        ({"dim": "0", "dropout": 2, "patience": 0}, ["dim is 0", "dropout is 2", "patience is 0"]),
        (
            {"protocol": "leave-two-out"},
            ["protocol is 'leave-two-out'", "'global-time', 'prequential' or"],
        ),
        ({"clip": "inf"}, ["clip is inf", "a finite number"]),
        ({"memory_guard": "perhaps"}, ["memory_guard is 'perhaps'", "true or false"]),
        ({"max_minutes": "0"}, ["max_minutes is 0", "above 0"]),
        ({"dim": 0}, ["dim is 0"]),
        ({"dim": 9, "heads": 2}, ["9", "2"]),
        ({"dropout": 1.5}, ["dropout is 1.5"]),
        ({"forgetting": "never"}, ["forgetting is 'never'", "'events'"]),
        ({"loss": "bpr"}, ["loss is 'bpr'", "'full'"]),
        ({"beta1": 1}, ["beta1 is 1", "in [0, 1)"]),
        ({"max_epochs": -1}, ["max_epochs is -1", "in [0, "]),
        ({"learning_rate": "nan"}, ["learning_rate is nan"]),
        ({"weight_decay": "nan"}, ["weight_decay is nan"]),
        ({"context": 0}, ["context is 0"]),
        ({"dim": None}, ["dim is None"]),
        ({"seed": "none"}, ["seed is 'none'"]),
        ({"seed": 2**70}, [f"seed is {2**70}; it must be in [0, {2**63 - 1}]"]),
        ({"window": str(10**30)}, [f"window is {10**30}; it must be in [1, {2**31 - 1}]"]),
        ({"batch_tokens": 1e30}, ["batch_tokens is 1e+30; it must be in [1, "]),
        ({"dim": 10**5000}, ["dim is an integer of thousands of digits; it must be in [1, 65536]"]),
        ({"dim": "65537", "layers": 1025}, ["in [1, 65536]. layers is 1025; it must be in [1, "]),
        ({"learning_rate": True}, ["learning_rate is True; it must be a number, above 0"]),
    ],
)
def test_a_wrong_setting_is_told(values, words):
    with pytest.raises(UsageError) as caught:
        parse_settings("elastic", values)
    for word in words:
        assert word in str(caught.value)


def test_an_unknown_model_names_the_nearest_and_all():
    with pytest.raises(UsageError, match=r"'elastik'.*Did you mean 'elastic'.*popularity"):
        check_model("elastik")


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        ("SASRecModel", "Did you mean 'sasrec'"),
        ("BERT4Rec", "Did you mean 'bert4rec'"),
        ("Pop", "Did you mean 'popularity'"),
        ("ItemKNN", "Did you mean 'item-knn'"),
        ("ImplicitALSWrapperModel", "Factors of a matrix are not among them: 'ease'"),
    ],
)
def test_models_of_other_libraries_are_known_by_their_names(theirs, words):
    with pytest.raises(UsageError, match=words):
        check_model(theirs)


def test_all_unknown_keys_are_told_at_once():
    with pytest.raises(UsageError) as caught:
        parse_settings("sasrec", {"lr": 0.001, "dim": 8, "epochs": 300, "dimm": 2})
    for words in ("learning_rate=0.001", "max_epochs=300", "no setting 'dimm'. Did you mean dim"):
        assert words in str(caught.value)


def test_a_key_of_another_model_is_unknown():
    with pytest.raises(UsageError, match="'sasrec' has no setting 'experts'"):
        parse_settings("sasrec", {"experts": 4})


def test_assignments():
    assert parse_assignments(["dim=8", "split=a=b", "loss="]) == {
        "dim": "8",
        "split": "a=b",
        "loss": "",
    }


@pytest.mark.parametrize(
    ("texts", "words"), [(["dim"], "KEY=VALUE"), (["=8"], "KEY=VALUE"), (["a=1", "a=2"], "twice")]
)
def test_wrong_assignments(texts, words):
    with pytest.raises(UsageError, match=words):
        parse_assignments(texts)


def test_every_model_is_described_as_it_is_built():
    rows = {row["model"]: row for row in describe_models()}
    assert sorted(rows) == sorted(MODELS)
    causal = {name: row["causal"] for name, row in rows.items()}
    assert {name for name in ("elastic", "sasrec", "popularity") if not causal[name]} == set()
    assert {name for name in ("bert4rec", "hydrarec-bidirectional") if causal[name]} == set()
    assert rows["bert4rec"]["streaming"] == "windowed"
    assert all(row["summary"].endswith(".") for row in rows.values())
    kept = {name: row["record_bytes"] for name, row in rows.items()}
    counting = [kept[name] for name in ("popularity", "last-item", "transitions")]
    assert counting == [64, 72, 104]  # a header, a time, a checksum, 8 bytes for each last item
    assert kept["bert4rec"] is None


@pytest.mark.parametrize(("name", "default"), [("sasrec", "next"), ("bert4rec", "masked")])
def test_targets_are_a_setting_with_its_choices(name, default):
    settings = {row["key"]: row for row in describe_model(name)["model_settings"]}
    assert settings["targets"] == {
        "key": "targets",
        "default": default,
        "type": "next | masked | last",
        "range": None,
        "meaning": settings["targets"]["meaning"],
    }
