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
    with pytest.raises(UsageError, match="recipe is 'mine'; choose 'own' or 'paper'"):
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
