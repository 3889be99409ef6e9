"""`longrec train --recipe auto`: what is printed, in text and JSON, and what others say of it."""

from __future__ import annotations

import json

import pytest
from cli.running import longrec, make_run

from longrec.comparison.compare import _arguments
from longrec.comparison.plan import Job, Plan
from longrec.core.errors import UsageError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("auto"))


def test_each_choice_is_a_line_and_info_shows_them(made, capsys):
    out = made.run.parent / "auto"
    argv = ["train", made.histories, "--out", out, "--recipe", "auto", "--minutes", 3]
    capsys.readouterr()
    assert longrec(*argv, "--set=layers=1", "dim=8", "--epochs", 1, "--json") == 0
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert document["recipe"] == "auto"
    choices = {one["key"]: one for one in document["chosen"]["choices"]}
    lines = " ".join(printed.err.split())
    assert "chosen for 3 minutes of one core, and a log of" in lines
    for key, one in choices.items():
        assert f"{key} {one['value']}: {one['why']}" in lines
    assert choices["dim"] | {"value": 8, "given": True} == choices["dim"]
    assert longrec("info", out) == 0
    shown = capsys.readouterr().out
    assert "chosen for the log" in shown
    assert choices["dropout"]["why"][:20] in shown
    assert longrec("info", out, "--json") == 0
    assert json.loads(capsys.readouterr().out)["chosen"] == document["chosen"]
    assert longrec("info", made.run, "--json") == 0
    of_defaults = json.loads(capsys.readouterr().out)
    assert (of_defaults["recipe"], of_defaults["chosen"]) == ("own", None)


@pytest.mark.slow
def test_a_comparison_has_auto_as_an_entry(made, capsys):
    out = made.run.parent / "compared"
    argv = ["compare", made.histories, "--models", "auto", "--out", out]
    argv += ["--budget", 1, "--no-baselines", "--set=layers=1", "max_epochs=1", "dim=8"]
    assert longrec(*argv, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in document["rows"]} == {"auto"}
    assert not document["failures"]


def test_what_is_no_entry_is_refused_before_any_run_and_what_is_one_is_passed_on(tmp_path):
    out = tmp_path / "run"
    about = {"histories": "h", "fingerprint": "f", "budget": 1.0, "settings": {}, "seeds": 1}
    plan = Plan(**about, models=("auto",), device="cpu", threads=1)
    assert (plan.entry("auto").model, plan.entry("auto").recipe) == (None, "auto")
    assert plan.entry("elastic:recipe=auto").model == "elastic"
    assert plan.entry("elastic").recipe == "own"
    assert plan.entry("sasrec:recipe=paper").settings["dim"] == "50"
    argv = {
        text: _arguments(Job(plan.entry(text), 0, out, out), plan, "training")
        for text in ("auto", "elastic:recipe=auto")
    }
    assert "--model" not in argv["auto"]
    for words in argv.values():
        assert words[words.index("--recipe") + 1] == "auto"
    with pytest.raises(UsageError, match="auto is a recipe itself: leave recipe=paper out"):
        plan.entry("auto:recipe=paper")
    with pytest.raises(UsageError, match=r"auto:dims=3: .* has no setting 'dims'"):
        plan.entry("auto:dims=3")
    with pytest.raises(UsageError, match="recipe is 'best'"):
        plan.entry("elastic:recipe=best")
