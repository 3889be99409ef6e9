"""Reports on runs that exist: the right evaluations, one row per model, and clear refusals."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from cli.running import longrec
from small_histories import tiny_histories, walks

from longrec import evaluate, report, train
from longrec.core.errors import DataError, UsageError
from longrec.data.item_table import as_item_table
from longrec.data.titles import item_titles

SHOW = {"exclude_seen": False}
WORDS = ["Heat", "Casino", "Ronin"]


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Figures are tested with the page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("longrec.evaluation.report.page._figures", lambda *_: [])
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Evaluated runs on histories: last-item under two seeds, popularity, and one that hides."""
    place = tmp_path_factory.mktemp("runs")
    data = tiny_histories(place / "histories", walks(60, 30, 5, 40), n_items=30)
    for name, model, settings in (
        ("last-0", "last-item", SHOW),
        ("last-1", "last-item", SHOW | {"seed": 1}),
        ("often", "popularity", SHOW),
        ("hiding", "popularity", {"exclude_seen": True}),
    ):
        made = train(data, model, place / name, progress=False, **settings)
        evaluate(made, data, baselines=name == "hiding")
    return place


def test_runs_are_rows_with_their_pairs_and_seeds_are_one(place, tmp_path):
    names = ["often", "last-1", "last-0"]
    found = report([place / name for name in names], tmp_path / "report.html")
    assert [(row.name, row.seeds, row.note) for row in found.rows] == [
        ("last", 2, "last-item"),
        ("often", 1, "popularity"),
    ]
    values = [json.loads((place / n / "metrics.json").read_text())[found.metric] for n in names]
    assert found.rows[0].metrics[found.metric] == pytest.approx((values[1] + values[2]) / 2)
    assert found.rows[1].metrics[found.metric] == values[0]
    ((a, b, difference, p_value),) = found.pairs
    assert difference.mean == pytest.approx(found.rows[0].metrics[found.metric] - values[0])
    assert (a, b) == ("last", "often")
    assert p_value < 0.05
    assert found.summary["answer"].startswith("last (a baseline")
    page = found.path.read_text()
    for text in ("In short", "60 users, 30 items", "Came next", "2 seeds", "often"):
        assert text in page, text


def test_the_command_prints_json_and_writes_markdown(place, tmp_path, capsys):
    out = tmp_path / "report.md"
    assert longrec("report", place / "last-0", place / "often", "--out", out, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in document["rows"]] == ["last-0", "often"]
    assert document["report"] == str(out)
    assert set(document["summary"]) == {"data", "question", "answer", "undecided"}
    assert document["pairs"][0]["p_holm"] < 0.05
    assert "| 1 | last-0, last-item | recommended |" in out.read_text()


def test_baselines_that_an_evaluation_measured_are_rows(place, tmp_path):
    found = report([place / "hiding"], tmp_path / "report.html")
    assert {row.name for row in found.rows} == {"hiding", "last-item", "transitions"}
    kept = json.loads((place / "hiding" / "metrics.json").read_text())["baselines"]
    pairs = {(p.a, p.b): p.difference.mean for p in found.pairs}
    assert pairs["hiding", "last-item"] == kept["last-item"]["lead"]["mean"]


def test_other_policies_are_refused_and_how_to_go_on_works(place, tmp_path):
    runs, out = [place / "last-0", place / "hiding"], tmp_path / "report.html"
    with pytest.raises(UsageError) as refused:
        report(runs, out)
    told = str(refused.value)
    assert f"seen items as served: recommended in {runs[0]}; left out in {runs[1]}" in told
    assert "--exclude-seen auto" in told
    assert not out.exists()
    assert len(report(runs, out, exclude_seen="auto").rows) >= 2
    with pytest.raises(DataError, match=f"evaluate {runs[0]} --exclude-seen yes"):
        report(runs, out, exclude_seen=True)
    again = tmp_path / "last-0"
    shutil.copytree(runs[0], again)
    assert longrec("evaluate", again, "--exclude-seen", "yes", "--no-baselines") == 0
    found = report([again, runs[1]], out, exclude_seen=True)
    assert {row.name: row.policy for row in found.rows if row.name in ("last-0", "hiding")} == {
        "last-0": "left out",
        "hiding": "left out",
    }


def test_other_data_protocols_and_splits_are_refused_by_name(place, tmp_path):
    other = tiny_histories(tmp_path / "histories", walks(50, 30, 5, 40, seed=1), n_items=30)
    run = tmp_path / "other"
    evaluate(train(other, "last-item", run, progress=False, **SHOW), baselines=False)
    out = tmp_path / "report.html"
    with pytest.raises(UsageError) as refused:
        report([place / "often", run], out)
    for text in (f"in {place / 'often'}", f"in {run}", other.fingerprint[:12], "60", "50"):
        assert text in str(refused.value)
    with pytest.raises(DataError, match=f"longrec evaluate {run} --data {place / 'histories'}"):
        report([place / "often", run], out, data=place / "histories")
    with pytest.raises(UsageError, match=r"report\.pdf; give the path of an \.html or \.md file"):
        report([place / "often"], tmp_path / "report.pdf")
    with pytest.raises(DataError, match="--split validation"):
        report([place / "often"], out, split="validation")
    timed = tiny_histories(
        tmp_path / "timed",
        walks(50, 30, 5, 40, seed=1),
        [[60 * t for t in range(len(row))] for row in walks(50, 30, 5, 40, seed=1)],
        n_items=30,
    )
    runs = [tmp_path / "by-user", tmp_path / "by-time"]
    for run, settings in zip(runs, (SHOW, SHOW | {"protocol": "global-time"}), strict=True):
        evaluate(train(timed, "popularity", run, progress=False, **settings), baselines=False)
    with pytest.raises(UsageError) as refused:
        report(runs, out)
    assert f"protocol: leave-one-out in {runs[0]}; global-time in {runs[1]}" in str(refused.value)
    assert "name one by --protocol" in str(refused.value)


def test_titles_of_items_come_from_a_table_or_a_column_of_the_events(make_histories):
    plain = make_histories([[1, 2, 3], [3, 1]])
    items = np.array([0, 1, 3])
    assert item_titles(plain, items) == {}
    codes = {"title": np.array([-1, 0, 1, 1, 2], np.int32)}
    titled = replace(plain, extra=codes, meta=replace(plain.meta, labels={"title": WORDS}))
    assert item_titles(titled, items) == {1000: "Ronin", 1002: "Casino"}
    table = as_item_table(
        pl.DataFrame({"item": ["1002", "1000", "1000"], "Title": ["A", "B", "C"]})
    )
    assert item_titles(titled, items, table) == {1000: "B", 1002: "A"}
    with pytest.raises(UsageError, match="has no column of titles; its columns are item, price"):
        item_titles(plain, items, as_item_table(pl.DataFrame({"item": [1], "price": [2]})))
    named = replace(plain, extra={"name": codes["title"].astype(np.float32)})
    assert item_titles(named, items) == {}  # numbers are no titles


def test_what_is_no_run_or_named_twice_or_not_evaluated_is_told(place, tmp_path):
    with pytest.raises(DataError, match=r"nowhere holds no run"):
        report([tmp_path / "nowhere"], tmp_path / "report.html")
    with pytest.raises(UsageError, match="named twice"):
        report([place / "often", place / "." / "often"], tmp_path / "report.html")
    bare = tmp_path / "bare"
    train(place / "histories", "popularity", bare, progress=False)
    with pytest.raises(DataError, match=f"Evaluate first: longrec evaluate {bare}"):
        report([bare], tmp_path / "report.html")
