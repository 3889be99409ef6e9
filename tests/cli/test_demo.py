"""The demo, small: every part of it runs, and its report holds what the table says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from longrec.cli.app import app
from longrec.cli.demo import MODELS
from longrec.recommender import load

RUNNER = CliRunner()


@pytest.mark.slow
def test_demo_trains_evaluates_recommends_and_reports(tmp_path: Path, monkeypatch) -> None:
    for name in ("sasrec", "elastic"):
        monkeypatch.setitem(MODELS[name], "max_epochs", 1)
    out = tmp_path / "demo"
    result = RUNNER.invoke(app, ["demo", "--out", str(out), "--users", "60", "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    rows = {row["name"]: row for row in document["rows"]}
    assert {"popularity", "last-item", "sasrec", "elastic"} <= set(rows)
    kinds = [row["kind"] for row in document["rows"]]
    assert kinds.count("ceiling") == 1
    assert kinds.count("bound") == 1
    ceiling = next(row for row in document["rows"] if row["kind"] == "ceiling")
    for row in document["rows"]:
        assert 0 <= row["unfiltered/ndcg@10"] <= ceiling["unfiltered/ndcg@10"]
    report = Path(document["report"]).read_text()
    assert "elastic" in report
    assert f"{rows['elastic']['unfiltered/ndcg@10']:.4f}"[1:] in report
    assert load(out / "elastic").name == "elastic"


def test_demo_replaces_a_demo_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    result = RUNNER.invoke(app, ["demo", "--out", str(tmp_path), "--users", "60"])
    assert result.exit_code != 0
    assert "holds no demo" in str(result.exception)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
