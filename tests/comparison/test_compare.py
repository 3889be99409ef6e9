"""Comparisons: results on disk, failures alone, and going on after anything.

The processes of runs are forked from one that has imported everything already.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from cli.running import longrec
from forking import run_command, start_child

from longrec.comparison.compare import compare
from longrec.comparison.read_runs import report_row
from longrec.comparison.results import collect
from longrec.core.errors import LongrecError, UsageError
from longrec.evaluation.report.contents import ReportRow
from longrec.runs.sizes import EVENT_BYTES, sizes_of
from longrec.serving.records.record import HEADER
from longrec.serving.stores.checks import SEAL

TINY = {"dim": "8", "layers": "1", "ffn_dim": "8", "max_epochs": "2", "batch_tokens": "400"}
MODELS = "popularity,hydrarec,hydrarec:learning_rate=1e300"
BUDGET = 5
ONE = ["--models", "popularity", "--budget", "1"]


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")  # readline, which pytest loads, would set it to 80


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Runs are forked, and pages, which are written after each of them, have no figures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("longrec.comparison.process.start_child", start_child)
        patch.setattr("longrec.evaluation.report.page._figures", lambda *_: [])
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("comparisons")


@pytest.fixture(scope="module")
def histories(place):
    from small_histories import tiny_histories, walks

    return tiny_histories(place / "histories", walks(60, 30, 3, 40), n_items=30)


@pytest.fixture(scope="module")
def folder(histories, place):
    """A comparison with one failure, made once."""
    out = place / "comparison"
    bound = ReportRow("best possible", "ceiling", {"ndcg@10": 0.9, "unfiltered/ndcg@10": 0.9})
    made = compare(
        histories, MODELS, BUDGET, out, settings=TINY, seeds=2, bounds=[bound], baselines=False
    )
    assert [(f.name, f.seed, f.phase) for f in made.failures] == [
        ("hydrarec:learning_rate=1e300", seed, "training") for seed in (0, 1)
    ]
    assert "the loss is" in made.failures[0].error
    return out


def test_results_hold_what_the_runs_say(folder):
    results = json.loads((folder / "results.json").read_text())
    rows = {row["name"]: row for row in results["rows"]}
    assert set(rows) == {"popularity", "hydrarec"}
    assert [row["seeds"] for row in (rows["popularity"], rows["hydrarec"])] == [1, 2]
    row = rows["hydrarec"]
    own = [json.loads((folder / "runs" / n / "metrics.json").read_text()) for n in
           ("hydrarec", "hydrarec-seed1")]  # fmt: skip
    for key in ("ndcg@10", "unfiltered/hr@50"):
        assert row["metrics"][key] == pytest.approx(sum(m[key] for m in own) / 2)
        assert row["spread"][key] == pytest.approx(abs(own[0][key] - own[1][key]) / 2**0.5)
    low, high = row["metrics"]["intervals"]["ndcg@10"]
    assert low <= row["metrics"]["ndcg@10"] <= high
    assert row["converged"] is False  # two epochs are its limit
    values = [one["metrics"][results["metric"]] for one in results["rows"]]
    assert values == sorted(values, reverse=True)  # whether converged or not
    assert [one["rank"] for one in results["rows"]] == [1, 2]
    cost = row["cost"]
    assert 100 << 20 < cost["peak_bytes"] < 4 << 30
    assert cost["epochs"] == 2
    assert cost["events_per_second"] > 0
    # A record: its head, sums and their count in float64, the convolution's three events, h, the
    # time and the number of events, and its checksum.
    assert cost["kept_bytes"] == HEADER.size + 8 * (8 + 1) + 4 * (3 * 8 + 8) + 8 + 8 + SEAL.size
    assert [run["seed"] for run in row["runs"]] == [0, 1]
    assert row["runs"][0]["command"].startswith("longrec --threads ")
    assert results["bounds"][0]["name"] == "best possible"
    assert [({p["a"], p["b"]}, p["p_holm"]) for p in results["pairs"]] == [
        ({"popularity", "hydrarec"}, None)
    ]
    assert results["plan"]["budget"] == BUDGET
    assert results["made"]["machine"]
    assert results["waiting"] == []
    failure = results["failures"][0]
    assert "the loss is" in Path(failure["log"]).read_text()


def test_csv_and_page_show_the_same(folder):
    results = json.loads((folder / "results.json").read_text())
    lines = {line["model"]: line for line in csv.DictReader((folder / "results.csv").open())}
    assert list(lines) == [*(row["name"] for row in results["rows"]), "best possible"]
    page = (folder / "report.html").read_text()
    for row in results["rows"]:
        line = lines[row["name"]]
        key = results["metric"]
        assert float(line[key]) == row["metrics"][key]
        assert float(line[f"{key} low"]) == row["metrics"]["intervals"][key][0]
        assert f"{row['metrics'][key]:.4f}" in page
    assert float(lines["hydrarec"]["peak_bytes"]) > 0
    for text in ("the loss is", "best possible", "<script", "5 minutes of training"):
        assert (text in page) == (text != "<script"), text


def test_the_same_call_keeps_what_ended_and_tries_failures_again(folder, histories, place, capsys):
    again = place / "again"
    shutil.copytree(folder, again)
    before = (again / "runs" / "hydrarec" / "model.safetensors").stat()
    settings = [f"--set={k}={v}" for k, v in TINY.items()]
    options = ["--budget", BUDGET, "--out", again, "--seeds", 2, "--no-baselines", *settings]
    assert longrec("compare", histories.path, "--models", f"{MODELS},last-item", *options) == 1
    printed = capsys.readouterr()
    assert "3 of 6 runs have ended already" in printed.err
    assert "2 of the runs failed" in printed.err
    assert "the loss is" in printed.err
    assert "last-item" in printed.out
    assert (again / "runs" / "hydrarec" / "model.safetensors").stat() == before
    found = collect(again)
    assert {row.name for row in found.rows if row.is_system} == {
        *("popularity", "hydrarec", "last-item")
    }
    assert [row.name for row in found.rows if not row.is_system] == ["best possible"]  # is kept
    assert found.waiting == ["hydrarec:learning_rate=1e300"]  # failures are of one call
    assert [p.p_value is None for p in found.pairs].count(False) == 1


def test_a_wrong_call_changes_nothing(folder, histories, tmp_path, capsys):
    before = (folder / "compare.json").read_text()
    common = ["--out", folder, *(f"--set={k}={v}" for k, v in TINY.items()), "--seeds", 2]
    assert longrec("compare", histories.path, "--models", MODELS, "--budget", 1, *common) == 2
    assert "begun with a budget in minutes of 5.0, not 1.0" in capsys.readouterr().err
    assert (folder / "compare.json").read_text() == before
    new = tmp_path / "new"
    for models in ("hydrarec,elastik", "hydrarec:dims=3"):
        assert (
            longrec("compare", histories.path, "--models", models, "--budget", 1, "--out", new) == 2
        )
    assert not new.exists()
    (tmp_path / "mine.txt").write_text("keep")
    assert longrec("compare", histories.path, *ONE, "--out", tmp_path) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(UsageError, match="'elastic' is a model"):
        compare(histories, "popularity", 1, new, bounds=[ReportRow("elastic", "model", {})])


def arguments(histories, out, *more: str, budget: float = 5) -> list[str]:
    """Of a comparison with a model that trains for long; its checkpoints are frequent."""
    settings = {**TINY, "max_epochs": "100000", "patience": "100000"}
    options = [f"--set={k}={v}" for k, v in (settings | {"checkpoint_minutes": "0.00001"}).items()]
    models = [
        "--models",
        "hydrarec,popularity",
        "--budget",
        str(budget),
        "--no-baselines",
        "--out",
        str(out),
    ]
    return ["compare", str(histories.path), *models, *options, *more]


def start(histories, out, *more: str):
    """The command in a process of its own, which forks those of its runs."""
    return run_command(
        *arguments(histories, out, *more),
        forked_children=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(what, seconds: float = 120.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = what()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("waited in vain")


def test_killed_interrupted_and_gone_on_with(histories, tmp_path, capsys):
    out = tmp_path / "out"
    run = out / "runs" / "hydrarec"
    process = start(histories, out)
    wait_for(lambda: list(run.glob("checkpoint-*")))
    half = json.loads((out / "results.json").read_text())
    assert half["rows"] == []
    assert half["waiting"] == ["hydrarec", "popularity"]
    with pytest.raises(LongrecError, match="another comparison is writing"):
        compare(histories, "popularity", 5, out, baselines=False)
    process.kill()
    process.communicate(timeout=30)
    begun = json.loads((run / "training.json").read_text())["provenance"]["started"]
    last = max(p.name for p in run.glob("checkpoint-*"))

    process = start(histories, out)  # at once: the killed one's own process must be gone
    wait_for(lambda: max((p.name for p in run.glob("checkpoint-*")), default="") > last)
    process.send_signal(signal.SIGINT)
    printed = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert "Traceback" not in printed
    end = printed.strip().splitlines()[-1]
    assert end.startswith("error: interrupted; go on with the same command: longrec compare ")
    assert list(run.glob("checkpoint-*"))
    assert not (run / "config.json").exists()

    # The rest of it is made short: what was trained before counts towards the budget.
    for path, change in (
        (out / "compare.json", lambda plan: plan.update(budget=0.001)),
        (run / "training.json", lambda plan: plan["settings"].update(max_minutes=0.001)),
    ):
        plan = json.loads(path.read_text())
        change(plan)
        path.write_text(json.dumps(plan))
    assert longrec(*arguments(histories, out, budget=0.001)) == 0
    printed = capsys.readouterr().out
    assert "not converged" in printed
    assert "popularity" in printed
    made = json.loads((run / "provenance.json").read_text())
    assert made["started"] == begun  # one run, three processes
    assert made["training"]["stop"] == "max_minutes"
    assert made["training"]["seconds"] > 0.001 * 60
    assert not (out / ".lock").exists()


@pytest.mark.slow
def test_a_killed_run_loses_itself_alone(histories, tmp_path):
    out = tmp_path / "out"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = run_command(*arguments(histories, out, "--json"), **pipes)  # its runs not forked
    checkpoints = out / "runs" / "hydrarec"
    wait_for(lambda: list(checkpoints.glob("checkpoint-*")))
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(found[0]), signal.SIGKILL)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "killed by signal 9 (SIGKILL)" in errors
    document = json.loads(output)
    assert [row["name"] for row in document["rows"]] == ["popularity"]
    assert document["failures"][0]["name"] == "hydrarec"
    assert "killed by signal 9" in (out / "report.html").read_text()


def test_a_process_that_leaves_nothing_has_failed(histories, tmp_path, monkeypatch):
    monkeypatch.setattr("longrec.comparison.compare.run_process", lambda *_: None)
    found = compare(histories, "popularity", 1, tmp_path / "out", baselines=False)
    assert [(f.phase, f.error) for f in found.failures] == [
        ("training", "it ended well and left no result")
    ]
    assert "left no result" in found.report.read_text()


@pytest.mark.parametrize(
    ("name", "settings", "kept", "words"),
    [
        ("sasrec", {"max_length": 50}, 50 * EVENT_BYTES, "the last 50 events"),
        ("elastic-paper", {}, None, "the whole history"),
        ("elastic-paper", {"context": 200}, 200 * EVENT_BYTES, "the last 200 events"),
        ("popularity", {}, HEADER.size + 8 + SEAL.size, "nothing"),
        ("last-item", {}, HEADER.size + 8 + 8 + SEAL.size, "the last item"),
        ("transitions", {}, HEADER.size + 8 + 5 * 8 + SEAL.size, "the last 5 items"),
        ("elastic", {"layers": 1, "convolution": 0}, 2 * 16 * 65 * 4 + 64 * 4 + 8 + 8, "its state"),
    ],
)
def test_what_serving_keeps_of_a_user(name, settings, kept, words):
    from longrec.models.common.settings import parse_settings

    model, training = parse_settings(name, settings)
    found = sizes_of(
        {"model": name, "model_config": asdict(model), "train_config": asdict(training),
         "items": 1000}
    )  # fmt: skip
    assert (found["keeps"], found["parameters"] is None) == (
        words,
        name in ("popularity", "last-item", "transitions"),
    )
    if name == "elastic":
        assert kept <= found["kept_bytes"] <= 1.1 * kept + 200  # and a few counts
    else:
        assert found["kept_bytes"] == kept


def test_a_run_without_its_evaluation_is_refused(folder, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(folder / "runs" / "hydrarec", run)
    (run / "metrics.json").unlink()
    with pytest.raises(LongrecError, match=r"metrics\.json is missing: train and evaluate"):
        report_row([run], "x")
