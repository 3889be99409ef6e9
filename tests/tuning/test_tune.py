"""Searches: what is found is true, going on changes nothing, and what goes wrong is said."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from cli.running import longrec as command
from forking import run_command
from small_histories import tiny_histories, walks
from stops import told_of_steps

import longrec
from longrec.config.toml_file import read_config_file
from longrec.core.errors import DataError, LongrecError, UsageError
from longrec.core.lock import locked
from longrec.evaluation.summary import summarise_ranks
from longrec.tuning.results import runs_of
from longrec.tuning.search import validation_ranks
from longrec.tuning.space import space_of
from longrec.tuning.study import Study, optuna_package

try:
    optuna_package()
except UsageError:
    pytest.skip("optuna is not installed", allow_module_level=True)

TINY = {"dim": 8, "layers": 1, "ffn_dim": 8, "batch_tokens": 400, "max_epochs": 2, "average": 0.5}
SEARCH = {"learning_rate": "0.02..0.06", "convolution": "2,4"}
"""Rates by which two epochs teach something, which the default's do not."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("searches")


@pytest.fixture(scope="module")
def histories(place):
    return tiny_histories(place / "shop", walks(60, 30, 3, 30), n_items=30)


def search(histories, out, **more):
    given = {"budget": 5, "trials": 3, "search": SEARCH, "progress": False} | TINY | more
    return longrec.tune(histories, given.pop("model", "hydrarec"), out=out, **given)


@pytest.fixture
def quick(monkeypatch):
    """Pages have no figures, and few trials in a row without anything new end a search."""
    monkeypatch.setattr("longrec.tuning.page.pictures", lambda *_: {})
    monkeypatch.setattr("longrec.tuning.search.NOTHING_NEW", 8)


@pytest.fixture(scope="module")
def found(histories, place):
    return search(histories, place / "found")


def test_the_first_trial_is_what_train_does_by_default(found, histories):
    alone = longrec.train(histories, "hydrarec", **TINY)
    wanted = alone.provenance["training"]["validation"]["served/ndcg@10"]
    assert found.first.number == 0
    assert found.first.gain == 0
    assert found.first.ndcg10 == {"shop": wanted}


def test_the_best_is_the_best_and_its_files_say_so(found, histories):
    values = [trial.ndcg10["shop"] for trial in found.trials if trial.end == "ended"]
    [gain] = found.gains.values()
    assert len(found.trials) == 3
    assert gain.best == max(values) == found.best.ndcg10["shop"]
    assert gain.first == found.first.ndcg10["shop"]
    assert found.gain == pytest.approx(gain.best / gain.first - 1)
    best = found.load()
    assert best.train_config.learning_rate == found.settings["learning_rate"] >= 0.02
    assert gain.best > gain.first
    ranks = summarise_ranks(validation_ranks(best, histories), "leave-one-out", draws=2)
    assert ranks["served/ndcg@10"] == pytest.approx(gain.best)
    # What is written trains the same again.
    kept = read_config_file(found.config)
    assert kept.model == "hydrarec"
    again = longrec.train(histories, config=found.config)
    assert asdict(again.model_config) == asdict(best.model_config)
    trained = again.provenance["training"]["validation"]["served/ndcg@10"]
    assert trained == pytest.approx(gain.best)
    results = json.loads((found.folder / "results.json").read_text())
    assert results["settings"] == found.settings
    assert [one["gain"] for one in results["trials"]] == [one.gain for one in found.trials]
    page = found.report.read_text()
    assert page.count("<svg") == 2
    assert "looks better than it is" in page


def test_the_same_call_adds_nothing_and_more_trials_go_on(found, histories, quick):
    kept = {found.best.run, found.first.run}
    assert {path.name for path in (found.folder / "trials").iterdir()} == kept
    again = search(histories, found.folder)
    assert again.trials == found.trials
    more = search(histories, found.folder, trials=4)
    assert more.trials[:3] == found.trials
    assert len(more.trials) == 4
    assert len(list((found.folder / "trials").iterdir())) <= 2
    with pytest.raises(UsageError, match="was begun with the fixed settings"):
        search(histories, found.folder, seed=3)
    with locked(found.folder, "search"), pytest.raises(LongrecError, match="another search"):
        search(histories, found.folder)


def test_what_was_stopped_goes_on_where_it_was(histories, place, found, quick):
    """Ctrl-C in the second epoch of the first trial: its numbers are those of an unbroken one."""

    def stop(status):
        if status.epoch == 1 and status.step == 2:
            raise KeyboardInterrupt

    with told_of_steps(stop), pytest.raises(KeyboardInterrupt):
        search(histories, place / "stopped")
    again = search(histories, place / "stopped", trials=1)
    [trial] = again.trials
    assert trial.end == "ended"
    assert trial.ndcg10 == found.first.ndcg10
    assert [len(points) for points in trial.curves.values()] == [2]


def test_what_is_not_whole_is_told_before_time_is_spent(histories, place, found, tmp_path):
    shutil.copytree(place / "found", tmp_path / "gone")
    shutil.rmtree(tmp_path / "gone" / "trials" / "0")
    with pytest.raises(DataError, match=r"trials/0 is gone, which trial 0 made: .*--overwrite"):
        search(histories, tmp_path / "gone", trials=9)
    shutil.copytree(place / "found", tmp_path / "damaged")
    with closing(sqlite3.connect(tmp_path / "damaged" / "trials.sqlite3")) as store, store:
        store.execute("delete from trial_user_attributes where key = 'ndcg10'")
    with pytest.raises(DataError, match=r"damaged: trial 0 has ended, and does not tell"):
        search(histories, tmp_path / "damaged", trials=9)


def test_a_search_that_goes_on_may_be_given_less(histories, place, found, tmp_path, quick):
    shutil.copytree(place / "found", tmp_path / "less")
    less = search(histories, tmp_path / "less", budget=1e-6, trials=9)
    assert less.stop == "budget"
    assert len(less.trials) < 9


def test_any_seed_of_training_will_do(tmp_path):
    Study(tmp_path, {"elastic": space_of("elastic", {}, {}, {})}, 1 << 62)


def test_who_is_behind_ends_early(histories, place, quick):
    (place / "quick.toml").write_text("learning_rate = 0.03\n")
    tuned = search(
        *(histories, place / "behind"),
        config=place / "quick.toml",
        search={"learning_rate": "1e-9,1e-8"},
        max_epochs=8,
    )
    assert [trial.end for trial in tuned.trials] == ["ended", "pruned", "pruned"]
    assert all(len(trial.curves["shop"]) == 1 for trial in tuned.trials[1:])
    assert tuned.best.begins
    assert "Nothing that was tried" in tuned.lines()[-1]


def test_a_trial_that_fails_is_told_and_others_go_on(histories, place, quick):
    tuned = search(
        *(histories, place / "failing"),
        search={"learning_rate": "1e300,1e200"},
        trials=2,
    )
    assert [trial.end for trial in tuned.trials] == ["ended", "failed"]
    assert "the loss is" in tuned.trials[1].error
    assert "the loss is" in tuned.report.read_text()


def test_settings_that_do_not_go_together_cost_nothing_and_end_a_search(histories, place, quick):
    tuned = search(histories, place / "refused", model="sasrec", search={"heads": "3,5"})
    assert tuned.stop == "tried"
    assert [trial.end for trial in tuned.trials] == ["ended", "refused", "refused"]
    assert "heads is 3; it must be a divisor of dim" in tuned.report.read_text()
    assert tuned.best.begins


def test_without_a_model_it_begins_with_what_train_would_choose(histories, place, quick):
    # Rates and minutes of a trial decide what is chosen; nothing is searched but one setting.
    fixed = {"max_epochs": 1, "layers": 1}
    given = {"budget": 16, "trial_minutes": 2, "trials": 1, "progress": False} | fixed
    found = longrec.tune(histories, out=place / "chosen", search=["average=0.5,0.9"], **given)
    trained = longrec.train(histories, max_minutes=2, **fixed)
    choices = {one["key"]: one["value"] for one in trained.provenance["chosen"]["choices"]}
    assert found.first.model == choices.pop("model")
    assert {key: found.first.settings[key] for key in choices} == choices
    assert found.plan.chosen, "some are no defaults"


def test_a_search_whose_defaults_fail_can_be_mended(histories, tmp_path):
    with pytest.raises(LongrecError, match="the loss is"):
        search(histories, tmp_path / "x", learning_rate=1e300, search={"dropout": "0..0.5"})
    assert list((tmp_path / "x").iterdir()) == []


def test_several_logs_and_models_are_judged_by_the_mean_of_relative_gains(histories, place, quick):
    other = tiny_histories(place / "news", walks(40, 20, 3, 12, seed=1), n_items=20)
    tuned = longrec.tune(
        *([histories, other], "item-knn,transitions"),
        budget=5,
        out=place / "both",
        trials=3,
        progress=False,
    )
    defaults = tuned.first.ndcg10
    assert tuned.first.model == "item-knn"
    assert {trial.model for trial in tuned.trials} == {"transitions", "item-knn"}
    for trial in tuned.trials:
        each = [trial.ndcg10[log] / defaults[log] - 1 for log in ("shop", "news")]
        assert trial.gain == pytest.approx(np.mean(each))
    runs = runs_of(tuned.folder, tuned.plan, tuned.best)
    assert list(tuned.runs) == ["shop", "news"]
    for log, run in runs.items():
        assert (
            longrec.load(run).provenance["training"]["validation"]["served/ndcg@10"]
            == (tuned.best.ndcg10[log])
        )
    assert "Mean over the logs" in " ".join(tuned.lines())
    assert repr(tuned).startswith(f"Tuning({str(tuned.folder)!r}: {tuned.model} with ")


def test_an_extra_that_is_missing_is_named(histories, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UsageError, match=r"pip install 'longrec\[tune\]'"):
        search(histories, tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--search", "dims=1,2"], "no such setting of transitions"),
        (["--search", "last=1,2", "--set", "last=3"], "both searched and fixed"),
        (["--set", "max_minutes=3"], "set by the minutes of a trial"),
        (["--trial-minutes", "9"], "at most the budget"),
        (["--model", "popularity"], "nothing to search of popularity"),
        (["--set", "search=3"], "search is no setting"),
    ],
)
def test_calls_that_cannot_be_meant_so(histories, tmp_path, capsys, more, words):
    argv = ["tune", histories.path, "--budget", 2, "--out", tmp_path / "x"]
    own = [] if "--model" in more else ["--model", "transitions"]
    assert command(*argv, *own, *more) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_json_of_the_command(histories, tmp_path, capsys, quick):
    argv = ["tune", histories.path, "--budget", 2, "--out", tmp_path / "x", "--trials", 2]
    assert command(*argv, "--model", "transitions", "--search", "last=1..9", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["model"] == "transitions"
    assert document["searched"] == {"transitions": {"last": "1..9"}}
    assert Path(document["runs"]["shop"], "config.json").is_file()
    assert document["stop"] == "trials"


@pytest.mark.slow
@pytest.mark.kills
def test_killed_in_the_middle_of_a_trial_it_goes_on(histories, tmp_path):
    """kill -9 at several moments of one search: it ends with the numbers of an unbroken one."""
    out = tmp_path / "killed"
    settings = [f"{key}={value}" for key, value in (TINY | {"max_epochs": 40}).items()]
    argv = ["tune", str(histories.path), "--model", "hydrarec", "--budget", "9", "--out", str(out)]
    argv += ["--search", "dropout=0..0.5", "--trials", "2", "--set", *settings]
    for wait in (2, 5):
        with run_command(*argv) as child:
            while not (out / "trials").is_dir():
                assert child.poll() is None
                time.sleep(0.05)
            time.sleep(wait / 10)
            child.kill()
    with run_command(*argv) as child:
        assert child.wait() == 0
    results = json.loads((out / "results.json").read_text())
    alone = longrec.train(histories, "hydrarec", **TINY | {"max_epochs": 40})
    wanted = alone.provenance["training"]["validation"]["served/ndcg@10"]
    first = next(one for one in results["trials"] if one["first"])
    assert first["ndcg10"]["shop"] == pytest.approx(wanted)
    assert sum(one["end"] in ("ended", "pruned") for one in results["trials"]) == 2
