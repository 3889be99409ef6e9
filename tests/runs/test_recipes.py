"""The recipe "paper" sets what a model's paper has, under what is given."""

from __future__ import annotations

import pytest
from small_histories import tiny_histories, walks

import longrec
from longrec.core.errors import UsageError
from longrec.models import MODELS
from longrec.models.common.settings import parse_settings, with_recipe

PUBLISHED = [name for name, cls in MODELS.items() if cls.paper_settings]


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_paper_s_settings_are_settings_of_the_model(name):
    parse_settings(name, MODELS[name].paper_settings)
    assert MODELS[name].paper, "settings of a paper that is not named"
    ours, training = parse_settings(name, {})
    for key, value in MODELS[name].paper_settings.items():
        own = getattr(ours, key, getattr(training, key, None))
        assert own != value, f"{key} is {value} in our defaults, too"


def test_what_is_given_stands_before_the_recipe():
    assert with_recipe("sasrec", "paper", {"dim": 20}) == {
        **MODELS["sasrec"].paper_settings,
        "transitions": 0,
        "dim": 20,
    }
    assert with_recipe("sasrec", "own", {"dim": 20}) == {"dim": 20}
    with pytest.raises(UsageError, match="recipe is 'mine'; choose 'own', 'paper' or 'auto'"):
        with_recipe("sasrec", "mine", {})
    with pytest.raises(UsageError, match="popularity has no settings of a paper"):
        with_recipe("popularity", "paper", {})


def test_a_run_says_by_which_recipe_it_was_trained(tmp_path):
    data = tiny_histories(tmp_path / "h", walks(20, 30, 4, 9))
    run = longrec.train(
        *(data, "sasrec", tmp_path / "run"), recipe="paper", max_epochs=1, negatives=64
    )
    assert run.provenance["recipe"] == "paper"
    assert (run.model_config.dim, run.train_config.loss) == (50, "bce")
    with pytest.raises(UsageError, match="a warm start keeps the settings of"):
        longrec.train(data, warm_start=run, recipe="paper")


def test_what_no_call_says_is_our_defaults_with_a_model_and_chosen_without(short, auto, tmp_path):
    chosen = longrec.train(short, out=tmp_path / "run", layers=1, max_epochs=1)
    assert chosen.provenance["chosen"] == auto.provenance["chosen"]
    assert chosen.model_config == auto.model_config
    again = longrec.train(short, out=tmp_path / "run", resume=True, max_epochs=2)
    assert again.provenance["chosen"] == auto.provenance["chosen"]
    none = {"layers": 1, "max_epochs": 0}
    assert "chosen" not in longrec.train(short, warm_start=chosen, max_epochs=0).provenance
    own, named = longrec.train(short, recipe="own", **none), longrec.train(short, "elastic", **none)
    (tmp_path / "named.toml").write_text('model = "elastic"\n')
    of_file = longrec.train(short, config=tmp_path / "named.toml", **none)
    assert own.model_config == named.model_config == of_file.model_config
    assert own.train_config == named.train_config == of_file.train_config
    assert named.train_config.learning_rate != chosen.train_config.learning_rate


def values(run):
    return {one["key"]: one["value"] for one in run.provenance["chosen"]["choices"]}


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    return tiny_histories(tmp_path_factory.mktemp("auto") / "h", walks(20, 30, 4, 9))


@pytest.fixture(scope="module")
def auto(short, tmp_path_factory):
    """A run that the recipe chose, but for its layers and epochs."""
    out = tmp_path_factory.mktemp("auto") / "run"
    return longrec.train(short, out=out, recipe="auto", layers=1, max_epochs=1)


def test_auto_says_in_the_provenance_what_it_chose_by_what(auto, short):
    about = longrec.load(auto.folder).provenance
    assert about["recipe"] == "auto"
    found = about["chosen"]
    assert found["statistics"]["users"] == short.n_users
    assert (found["minutes"], found["minutes_given"]) == (60.0, False)
    chosen = values(auto)
    assert chosen["model"] == auto.name == "elastic"
    for key in chosen.keys() - {"model"}:
        assert chosen[key] == getattr(auto.model_config, key, getattr(auto.train_config, key, None))
    assert all(one["why"] for one in found["choices"])
    assert auto.model_config.layers == 1
    assert longrec.train(short, recipe="auto", layers=1, max_epochs=1).provenance["chosen"] == found


def test_auto_leaves_what_is_set_by_keyword_or_file(short, tmp_path):
    (tmp_path / "own.toml").write_text('model = "hydrarec"\ndim = 16\n')
    run = longrec.train(
        short, recipe="auto", config=tmp_path / "own.toml", max_epochs=0, learning_rate=0.01
    )
    assert (run.name, run.model_config.dim, run.train_config.learning_rate) == (
        "hydrarec",
        16,
        0.01,
    )
    given = [one["key"] for one in run.provenance["chosen"]["choices"] if one["given"]]
    assert given == ["model", "dim", "learning_rate"]
    assert run.model_config.ffn_dim == 64, "it grows with the width that was given"


def test_auto_goes_into_the_measured_run_and_its_refit(auto, short, tmp_path):
    final = longrec.train(
        *(short, None, tmp_path / "final"), recipe="auto", final=True, layers=1, max_epochs=1
    )
    measured = longrec.load(tmp_path / "final" / "measured")
    refitted = longrec.refit(auto, tmp_path / "refit")
    for run in (final, measured, refitted):
        assert run.provenance["recipe"] == "auto"
        assert run.provenance["chosen"] == auto.provenance["chosen"]
        assert run.model_config == auto.model_config


def test_a_warm_start_refuses_auto_and_keeps_what_was_chosen(auto, short):
    with pytest.raises(UsageError, match="recipe is 'auto', but a warm start keeps the settings"):
        longrec.train(short, warm_start=auto, recipe="auto")
    again = longrec.train(short, warm_start=auto, max_epochs=0)
    assert again.train_config.learning_rate == auto.train_config.learning_rate
    assert "recipe" not in again.provenance


def test_resume_keeps_what_auto_chose_and_chooses_nothing_anew(auto, short, tmp_path):
    out = tmp_path / "run"
    first = longrec.train(short, out=out, recipe="auto", layers=1, max_epochs=1, max_minutes=60)
    more = longrec.train(short, out=out, resume=True, recipe="auto", max_epochs=2)
    assert more.provenance["chosen"] == first.provenance["chosen"]
    assert more.provenance["training"]["epochs"] == 2
    own = tmp_path / "own"
    longrec.train(short, "hydrarec", out=own, dim=8, max_epochs=1)
    with pytest.raises(
        UsageError, match="was started with the recipe 'own', not 'auto': leave the recipe"
    ):
        longrec.train(short, out=own, resume=True, recipe="auto", max_epochs=2)


def test_auto_names_unknown_settings_and_words(short):
    with pytest.raises(UsageError, match=r"has no setting 'dims'\. Did you mean dim"):
        longrec.train(short, recipe="auto", dims=8)
    with pytest.raises(UsageError, match="there is no model 'elastik'"):
        longrec.train(short, "elastik", recipe="auto")
    with pytest.raises(UsageError, match="choose 'own', 'paper' or 'auto'"):
        longrec.train(short, recipe="best")
    counted = longrec.train(short, "transitions", recipe="auto")
    assert values(counted) == {"model": "transitions"}
