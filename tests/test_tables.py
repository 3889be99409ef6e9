"""Tables of the pages are what the code declares, and so is what `longrec models` says."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import pytest
from cli.running import longrec

from longrec.config.training import TrainConfig
from longrec.mixers import MIXERS
from longrec.models import MODELS, SequenceModel, build_model
from longrec.models.common.config import FeedForwardConfig
from longrec.models.common.registry import register_model
from longrec.runs.describe import describe_mixers, describe_model, describe_models
from longrec.serving.records.record import RecordLayout

TOOL = Path(__file__).parents[1] / "tools" / "tables.py"


FASTER = re.compile("[TW]²|log [TW]")
"""In a cost: that it grows faster than the history."""


@pytest.fixture(scope="module")
def tables():
    spec = importlib.util.spec_from_file_location("tables", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_have_the_tables_that_the_code_declares(tables) -> None:
    named = set()
    for page, text in tables.pages():
        assert tables.with_tables(text) == text, f"{page}: python {TOOL} --write"
        named |= {found[2] for found in tables.MARK.finditer(text)}
    assert named == set(tables.TABLES)


def test_a_table_is_written_between_its_marks(tables) -> None:
    text = "a\n<!-- table elastic -->\n| old |\n<!-- end of table -->\nz\n"
    new = tables.with_tables(text)
    assert "`elastic-paper`" in new
    assert "old" not in new
    assert re.sub(r"\|.*\n", "", new) == re.sub(r"\|.*\n", "", text)


def test_tables_of_what_was_measured_are_of_its_files(tables, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tables, "CELLS", tmp_path)
    monkeypatch.setattr(tables, "COSTS", tmp_path / "systems.json")
    assert "not measured yet" in tables.accuracy() + tables.costs()
    from longrec_bench.zoo.report import LEADING, QUOTED

    for log, values in {"near": (0.2, 0.4), "far": (0.1, 0.3)}.items():
        (tmp_path / log).mkdir()
        (tmp_path / log / "log.json").write_text("{}")
        for name, value in zip(("elastic", "popularity"), values, strict=True):
            cell = {
                "model": name,
                "recipe": "own",
                "metrics": dict.fromkeys([LEADING, *QUOTED], value),
            }
            cell |= {
                "intervals": {LEADING: [0, 1]},
                "converged": name == "popularity",
                "seconds": 9,
            }
            cell |= {"ended": "", "epochs": 1, "processor_share": 0.5, "parameters": 1}
            cell |= {"kept_bytes": 1, "keeps": ""}
            (tmp_path / log / f"{name}-own-0.json").write_text(json.dumps(cell))
    head, _, first, second = tables.accuracy().splitlines()
    assert head == "| model | far | near |"
    assert first.startswith("| `popularity` | 0.3000 (0.0000 to 1.0000) | 0.4000 (")
    assert second.startswith("| `elastic` | 0.1000* (")
    cell = {"model": "elastic", "length": 200, "pass": "forward+backward", "seconds_median": 0.002}
    found = {"cells": [cell | {"peak_bytes": 1 << 20}]}
    (tmp_path / "systems.json").write_text(json.dumps(found))
    assert "| elastic | 2.00 |  |  | 1.00 |  |  |" in tables.costs()


def test_every_model_of_ours_declares_all() -> None:
    rows = {row["model"]: row for row in describe_models()}
    assert sorted(rows) == sorted(MODELS)
    for name, row in rows.items():
        counted = not issubclass(MODELS[name], SequenceModel)
        assert row["problem"] is None
        assert row["cost"].startswith("O(")
        assert counted or re.search(r"arXiv \d{4}\.\d{5}$|doi 10\.\d+/\S+$", row["paper"])
        assert counted or set(row["mixers"]) <= set(MIXERS)
        assert (row["record_bytes"] is not None) == (row["streaming"] == "exact")
        assert row["linear"] == (counted or not FASTER.search(row["cost"]))
        assert row["summary"].endswith(".")


def test_bytes_of_a_user_are_those_of_a_stream() -> None:
    row = describe_model("hydrarec")
    model = build_model("hydrarec", MODELS["hydrarec"].config_class(), 7)
    assert isinstance(model, SequenceModel)
    assert row["record_bytes"] == RecordLayout(model.initial_state(1), "0" * 64).size


def test_every_mixer_declares_its_cost_as_the_model_of_it_has_it() -> None:
    rows = {row["mixer"]: row for row in describe_mixers()}
    for name, cls in MIXERS.items():
        assert rows[name]["cost"].startswith("O(T")
        assert bool(FASTER.search(rows[name]["cost"])) != cls.linear
    # Running means and their weights of 16 experts, three events of the convolution, the last time.
    assert rows["dispatcher"]["state_bytes"] == 4 * (2 * 16 * (2 * 32 + 1) + 3 * 64) + 8


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_setting_has_a_meaning(name) -> None:
    described = describe_model(name)
    for setting in described["model_settings"] + described["training_settings"]:
        assert setting["meaning"], setting["key"]
    keys = [setting["key"] for setting in described["training_settings"]]
    assert keys == [field.name for field in fields(TrainConfig)]


def test_the_command_line_prints_the_declarations(capsys) -> None:
    assert longrec("models", "--json") == 0
    assert json.loads(capsys.readouterr().out) == describe_models()
    assert longrec("models") == 0
    shown = capsys.readouterr().out
    assert f"{describe_model('elastic')['record_bytes']:,}" in shown
    assert "arXiv 2408.09380" in shown
    assert longrec("models", "elastic") == 0
    shown = capsys.readouterr().out
    for words in ("O(T R D)", "dispatcher", "int, in [1, 48]", "interest queries of each head"):
        assert words in shown


def test_the_example_of_the_page_of_models_is_a_model(monkeypatch) -> None:
    page = (TOOL.parents[1] / "docs" / "models.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(# my_package.*?)```", page, re.DOTALL)
    assert code is not None
    monkeypatch.setattr(MODELS, "data", dict(MODELS))
    module = ModuleType("my_package")
    monkeypatch.setitem(sys.modules, "my_package", module)
    exec(compile(code[1], "models.md", "exec"), module.__dict__)
    row = describe_model("my-model")
    assert row["problem"] is None
    assert (row["mixers"], row["streaming"], row["paper"]) == (
        *(["hydra"], "exact", "arXiv 0000.00000"),
    )
    setting = next(row for row in row["model_settings"] if row["key"] == "width")
    assert (setting["range"], setting["meaning"]) == (
        "in [0, 64]",
        "events of the short convolution.",
    )


def test_a_model_that_cannot_be_made_hides_no_other(monkeypatch, capsys) -> None:
    monkeypatch.setattr(MODELS, "data", dict(MODELS))

    @register_model("broken")
    class Broken(SequenceModel):
        """Cannot be made."""

        streaming = "exact"
        config_class = FeedForwardConfig

        def __init__(self, config, n_items):
            raise ZeroDivisionError("no such number")

    assert longrec("models") == 0
    printed = capsys.readouterr()
    assert "warning: broken cannot be made: ZeroDivisionError: no such number" in printed.err
    assert "elastic" in printed.out
