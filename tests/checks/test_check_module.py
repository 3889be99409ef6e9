"""What `longrec check-model` says of modules that cannot be checked, and of mixers undefined."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli.running import longrec

from longrec.checks.run import MIXER_CHECKS, run_all
from longrec.mixers.softmax import SoftmaxMixer

MODEL = """
from dataclasses import dataclass
from longrec.models import FeedForwardConfig, SequenceModel, register_model

@dataclass(frozen=True)
class Config(FeedForwardConfig):
    {setting}

@register_model("{name}")
class Mine(SequenceModel):
    streaming = "exact"
    config_class = Config
    {method}
"""
REFUSED = {
    "shared_key": ("seed: int = 3", "", "ValueError: .*training has, too: seed"),
    "overriding": ("more: int = 3", "def score(self, h): ...", "TypeError: Mine overrides score"),
    "broken": ("more: int = missing", "", "NameError: name 'missing' is not defined"),
}


@pytest.mark.parametrize("module", REFUSED)
def test_a_module_that_is_refused_is_a_failed_check(module, tmp_path, monkeypatch, capsys) -> None:
    setting, method, message = REFUSED[module]
    text = MODEL.format(setting=setting, name=module, method=method)
    (tmp_path / f"{module}_module.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert longrec("check-model", f"{module}_module", "--json") == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["failed"], document["passed"]) == (1, 0)
    [outcome] = document["checks"]
    assert outcome["check"] == "import and registration"
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(outcome["reason"])


def test_a_wrong_call_has_status_2(tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "nothing_in_it.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert longrec("check-model", "not_there") == 2
    assert longrec("check-model", "nothing_in_it") == 2
    told = capsys.readouterr().err
    assert "there is no module 'not_there'" in told
    assert "'nothing_in_it' registers no mixer and no model" in told


class Undefined(SoftmaxMixer):
    """A mixer without a definition of its own."""


def test_a_mixer_without_a_definition_is_not_checked_against_one(monkeypatch) -> None:
    from longrec.checks import definitions

    monkeypatch.setattr(
        "longrec.checks.mixers.define", definitions.define.dispatch(object)
    )  # as where nobody has registered any
    names = ("equals its definition, float64", "cost is linear")
    first, last = run_all("mixer", {name: MIXER_CHECKS[name] for name in names}, Undefined)
    assert first.result == "not checked"
    assert "register a definition with @longrec.checks.definitions.define" in first.reason
    assert (last.result, last.reason) == ("not applicable", "it says linear = False")
