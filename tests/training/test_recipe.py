"""The rules of the recipe "auto", on logs that are nothing but statistics."""

from __future__ import annotations

from dataclasses import replace

import pytest
from small_histories import tiny_histories, walks

from longrec.data.splits import make_split
from longrec.models import MODELS
from longrec.models.common.registry import config_keys
from longrec.models.common.sequence import scores_pairs
from longrec.models.common.settings import go_together, parse_settings
from longrec.training.log_statistics import LogStatistics, microseconds
from longrec.training.recipe import (
    FULL_EPOCHS,
    MINUTES,
    MODELS_OF_CHOICE,
    RULES,
    SPARSE,
    choose,
    chosen_lines,
)

LONG = LogStatistics(
    users=6_000,
    items=3_400,
    events=1_000_000,
    targets=980_000,
    middling=94,
    per_item=290.0,
    validated=6_000,
    cold=0.0,
    repeats=0.0,
)
"""Few items, long histories, each item often."""
SHORT = LogStatistics(
    users=22_000,
    items=12_000,
    events=200_000,
    targets=131_000,
    middling=4,
    per_item=12.7,
    validated=22_000,
    cold=0.0,
    repeats=0.0,
)
"""Short histories, each item seldom."""
MANY = replace(LONG, items=1_000_000, events=30_000_000, targets=29_000_000, users=1_000_000)


def chosen(log, minutes=None, model=None, **given):
    limit = {} if minutes is None else {"max_minutes": minutes}
    found = choose(log, model, limit | given)
    return {one.key: one.value for one in found.choices}


def test_statistics_are_those_of_the_training_events(tmp_path):
    data = tiny_histories(tmp_path / "h", [[1, 2, 3, 1], [2, 3, 4, 5, 6, 6], [1, 1], [3]], None, 8)
    found = LogStatistics.of(data, make_split("leave-one-out", data))
    # train: 1 2 | 2 3 4 5 | 1 1 | 3; validate: 3 after 1 2, 6 after 2 3 4 5
    assert found == LogStatistics(
        users=4,
        items=8,
        events=13,
        targets=1 + 3 + 1,
        middling=2,
        per_item=round(9 / 8, 2),
        validated=2,
        cold=0.5,
        repeats=0.0,
    )


def test_what_is_chosen_is_a_function_of_statistics_and_minutes_alone():
    for log in (LONG, SHORT, MANY):
        for minutes in (0.01, 1.0, 10.0, 600.0):
            first, second = (choose(log, None, {"max_minutes": minutes}) for _ in range(2))
            assert first == second
            assert [one.key for one in first.choices][1:] == [
                key for key, _ in RULES if key in dict(chosen(log, minutes))
            ]
            parse_settings(first.model, first.settings)  # and they go together


def test_the_model_is_elastic_but_for_short_histories_without_transitions():
    assert chosen(LONG)["model"] == chosen(SHORT)["model"] == "elastic"
    assert chosen(SHORT, transitions=0)["model"] == "lrurec"
    assert chosen(SHORT, transitions=0, experts=8)["model"] == "elastic"
    assert chosen(LONG, transitions=0)["model"] == "elastic"


def test_minutes_make_the_network_wider_and_sparse_logs_the_widest():
    for log, widest in ((LONG, 128), (SHORT, 256)):
        widths = [chosen(log, minutes)["dim"] for minutes in (0.1, 1, 8, 20, 60, 1e4)]
        assert widths == sorted(widths)
        assert (widths[0], widths[-1]) == (64, widest)
    assert chosen(LONG, 1e4)["ffn_dim"] == 512
    assert chosen(LONG, 1e4)["heads"] == 4


def test_no_table_of_items_is_made_larger_than_memory_likes():
    assert chosen(replace(SHORT, items=2_000_000), 1e6)["dim"] == 64
    assert chosen(replace(SHORT, items=400_000), 1e6)["dim"] == 128


def test_dropout_is_strong_where_items_are_seldom_and_epochs_enough():
    assert chosen(SHORT, 60)["dropout"] == 0.5
    assert chosen(SHORT, 0.2)["dropout"] == 0.2
    assert chosen(replace(SHORT, per_item=SPARSE), 60)["dropout"] == 0.3
    assert chosen(LONG, 2)["dropout"] == 0.2


def test_the_loss_is_sampled_where_few_epochs_of_the_full_one_fit():
    assert chosen(MANY, 60)["loss"] == "sampled"
    assert chosen(MANY, 60)["negatives"] == chosen(SHORT, 60, loss="bce")["negatives"] == 2_048
    assert "negatives" not in chosen(SHORT, 60)
    assert chosen(SHORT, 60)["loss"] == "full"
    assert chosen(LONG, 0.1)["loss"] == "full", "sampling saves nothing of a small catalog"
    epochs = 6e7 * 60 / (MANY.targets * microseconds(MANY, "full", 64))
    assert epochs < FULL_EPOCHS


def test_few_steps_are_larger():
    few, many = chosen(LONG, 1), chosen(LONG, 600)
    assert few["learning_rate"] > many["learning_rate"]
    assert chosen(LONG, 600, max_epochs=1)["learning_rate"] == few["learning_rate"]


def test_without_minutes_it_is_chosen_as_for_an_hour():
    assert chosen(SHORT) == chosen(SHORT, MINUTES)
    assert chosen_lines(choose(SHORT, None, {}).about())[0].startswith("chosen for no limit of")
    assert chosen_lines(choose(SHORT, None, {"max_minutes": 2.5}).about())[0].startswith(
        "chosen for 2.5 minutes of one core, and a log of 131,000 events to predict, 12,000 items "
    )


def test_what_is_given_stays_and_the_rest_follows_it():
    found = choose(SHORT, "elastic", {"dim": 96, "dropout": 0.1, "max_minutes": 60.0})
    by_key = {one.key: one for one in found.choices}
    assert (found.model, by_key["model"].given) == ("elastic", True)
    assert by_key["dim"] == replace(by_key["dim"], value=96, given=True, why="as set")
    assert (by_key["ffn_dim"].value, by_key["heads"].value) == (384, 3)
    assert not {"dim", "dropout", "max_minutes"} & found.settings.keys()
    odd = choose(SHORT, "elastic", {"dim": 98})
    assert odd.settings["heads"] == 2, "three heads would not divide 98"
    assert "context None: as set" in chosen_lines(choose(LONG, None, {"context": None}).about())


def test_what_is_chosen_goes_with_what_is_given():
    every = [(name, {"dim": dim}) for name in MODELS for dim in (32, 96)]
    for name, given in every:
        if not go_together(name, given):
            continue
        for log in (LONG, MANY):
            settings = choose(log, name, given).settings
            assert go_together(name, settings | given), (name, given)
            assert settings.get("loss") == "sampled" or not scores_pairs(MODELS[name])
        taught = {"teachers": "one,two", **given}
        if go_together(name, taught):
            assert go_together(name, choose(MANY, name, taught).settings | taught), (name, given)


def test_settings_of_the_second_model_are_all_the_first_one_s():
    elastic, lrurec = (config_keys(MODELS[name].config_class) for name in MODELS_OF_CHOICE)
    assert lrurec.keys() <= elastic.keys(), "given settings are checked by the first one"


def test_of_a_model_that_counts_nothing_is_chosen():
    found = choose(SHORT, "transitions", {"last": 5})
    assert [one.key for one in found.choices] == ["model"]
    assert found.settings == {}


@pytest.mark.parametrize("minutes", [1e-9, 1e12])
def test_extreme_logs_and_budgets_get_values_that_can_be_trained(minutes, tmp_path):
    data = tiny_histories(tmp_path / "h", walks(3, 5, 1, 2))
    none = LogStatistics.of(data, make_split("leave-one-out", data))
    for log in (none, MANY, replace(MANY, targets=10**12, items=2**31)):
        found = choose(log, None, {"max_minutes": minutes})
        parse_settings(found.model, found.settings)
