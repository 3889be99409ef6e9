"""`longrec info`: what it says of histories, runs and stores, counted by hand."""

from __future__ import annotations

import json
import shutil
from collections import Counter

import numpy as np
import polars as pl
import pytest
from cli.running import longrec, make_run
from serving.redis_server import RedisServer
from small_histories import tiny_histories, walks
from stops import told_of_steps

import longrec as package
from longrec.core import console
from longrec.core.errors import DataError
from longrec.data import about as counting
from longrec.data.about import about_histories

DAY = 86_400


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    made = make_run(tmp_path_factory.mktemp("info"))
    assert longrec("evaluate", made.run, "--no-baselines") == 0
    return made


@pytest.fixture
def told(capsys, monkeypatch):
    """`longrec info ARGV` in 80 columns -> standard output and standard error."""

    def tell(*argv: object) -> tuple[str, str]:
        capsys.readouterr()
        assert longrec("info", *argv) == 0
        return capsys.readouterr()

    return tell


LOG = pl.DataFrame(
    {
        "user": ["a"] * 6 + ["b"] * 3 + ["c"],
        "item": [1, 2, 1, 1, 3, 2, 1, 2, 3, 9],
        "time": [0, 0, 10, 110, 110 + DAY, 110 + 2 * DAY, 5, 6, 1006, 7],
        "type": ["view", "buy", None, "view", "view", "view", "buy", "view", "view", None],
        "price": [1.0, 2.0, 3.0, float("nan"), 5.0, 6.0, 7.0, 8.0, 9.0, 10.0],
    }
)


@pytest.fixture(scope="module")
def histories(tmp_path_factory):
    place = tmp_path_factory.mktemp("by-hand") / "h"
    return package.prepare(LOG, place, time_unit="s", type="type", columns=["price"])


@pytest.mark.parametrize("at_once", [1, 4, 10**6])
def test_histories_are_counted(histories, at_once, monkeypatch):
    monkeypatch.setattr(counting, "EVENTS_AT_ONCE", at_once)
    steps = []
    found = about_histories(histories, lambda *step: steps.append(step))
    assert steps[-1] == (10, 10)
    assert len(steps) == {1: 3, 4: 2, 10**6: 1}[at_once]
    assert [found[key] for key in ("kind", "users", "items", "events")] == ["histories", 3, 4, 10]
    assert found["lengths"]["users"] == [
        {"from": 1, "to": 1, "users": 1},
        {"from": 2, "to": 4, "users": 1},
        {"from": 5, "to": 9, "users": 1},
    ]
    lengths = {key: found["lengths"][key] for key in ("mean", "min", "p50", "p90", "max")}
    assert lengths == {"mean": pytest.approx(10 / 3), "min": 1, "p50": 3, "p90": 6, "max": 6}
    assert found["repeats"] == {"events": 3, "share": 0.3}
    gaps = found["gaps"]  # 0 10 100 86400 86400 of a, 1 1000 of b
    assert gaps["same_second"] == pytest.approx(1 / 7)
    assert (gaps["p10"], gaps["p25"], gaps["p50"], gaps["max"]) == (0, 1, 100, DAY)
    assert gaps["p90"] == pytest.approx(DAY, rel=0.004)
    assert found["time"]["first"] == "1970-01-01T00:00:00+00:00"
    assert sum(found["time"]["events"]) == 10
    assert [found["time"]["events"][n] for n in (0, 30, 59)] == [8, 1, 1]
    popular = found["popularity"]
    assert popular["most"][0] == {"item": 1, "events": 4, "share": 0.4}
    assert (popular["top_1_percent"], popular["items_for_half"]) == (0.4, 2)
    assert popular["items_with_under_5_events"] == 4
    columns = {one["column"]: one for one in found["columns"]}
    assert columns["type"]["missing"] == 0.2
    assert columns["type"]["most"] == [
        {"word": "view", "share": 0.6},
        {"word": "buy", "share": 0.2},
    ]
    price = columns["price"]
    assert (price["min"], price["max"], price["mean"]) == (1, 10, pytest.approx(51 / 9))
    assert price["missing"] == pytest.approx(0.1)


def test_a_larger_log_is_counted_as_in_plain_python(tmp_path):
    rows = walks(200, 30, 3, 400, seed=1)
    random = np.random.default_rng(0)
    times = [np.sort(random.integers(0, 10**7, len(row))).tolist() for row in rows]
    found = about_histories(tiny_histories(tmp_path / "h", rows, times))
    lengths = sorted(map(len, rows))
    assert found["lengths"]["p75"] == lengths[149]
    assert found["lengths"]["p99"] == lengths[197]
    assert found["repeats"]["events"] == sum(len(row) - len(set(row)) for row in rows)
    gaps = np.sort(np.concatenate([np.diff(one) for one in times]))
    for name, q in (("p10", 0.1), ("p50", 0.5), ("p99", 0.99)):
        want = gaps[int(np.ceil(q * len(gaps))) - 1]
        assert found["gaps"][name] == pytest.approx(want, rel=0.005)
    counts = Counter(item for row in rows for item in row)
    top = sum(n for _, n in counts.most_common(3)) / sum(lengths)
    assert found["popularity"]["top_10_percent"] == pytest.approx(top)


def test_histories_in_a_terminal(told, histories, tmp_path, monkeypatch):
    out, _ = told(histories.path)
    words = " ".join(out.replace("│", " ").split())
    assert "30.0% of events are of an item that the user had before" in words
    assert "text, 2 words: view 60.0%, buy 20.0%, 20.0% without" in words
    assert "float64, 1 to 10, 5.66667 on average, 10.0% without" in words
    assert histories.fingerprint[:16] in words
    assert json.loads(told(histories.path, "--json")[0])["fingerprint"] == histories.fingerprint
    plain = tiny_histories(tmp_path / "plain", [[1, 2], [2]])
    found = json.loads(told(plain.path, "--json")[0])
    assert found["time"] is found["gaps"] is None
    assert "none: the order of events alone is known" in told(plain.path)[0]


def test_popular_items_are_told_with_their_titles(told, tmp_path):
    log = LOG.with_columns(title=pl.format("Film {}", "item")).select(
        "user", "item", "time", "title"
    )
    data = package.prepare(log, tmp_path / "h", time_unit="s", columns=["title"])
    most = about_histories(data)["popularity"]["most"]
    assert [one["title"] for one in most[:2]] == ["Film 1", "Film 2"]
    assert "Film 9" in told(data.path)[0]


def test_a_run_is_told_without_its_weights(told, made, tmp_path):
    found = json.loads(told(made.run, "--json")[0])
    rec = package.load(made.run)
    assert (found["kind"], found["state"], found["final"]) == ("run", "ended", False)
    assert found["settings"]["dim"] == 8
    assert "learning_rate" not in found["settings"]
    assert found["data"]["fingerprint"] == package.open_histories(made.histories).fingerprint
    assert found["training"]["stop"] == "max_epochs"
    assert found["parameters"] == sum(p.numel() for p in rec.model.parameters())
    assert (found["keeps"], found["kept_bytes"] > 0) == ("its state", True)
    [curve] = found["curve"]
    assert curve["ndcg10"] == rec.curve["ndcg10"][0]
    [evaluation] = found["evaluations"]
    metrics = json.loads((made.run / "metrics.json").read_text())
    assert evaluation["value"] == metrics["served/ndcg@10"]
    assert evaluation["targets"] == metrics["counts"]["targets"]
    out, _ = told(made.run)
    words = " ".join(out.replace("│", " ").split())
    for one in ("settings unlike the defaults dim=8", "not converged, 1 epochs", "leave-one-out"):
        assert one in words
    copy = shutil.copytree(made.run, tmp_path / "copy")
    (copy / "model.safetensors").write_bytes(b"damaged")
    assert json.loads(told(copy, "--json")[0])["items"] == found["items"]
    (copy / "config.json").write_text("{}")
    with pytest.raises(DataError):
        package.load(copy)
    assert longrec("info", copy) == 1


def stop_late(status):
    if status.epoch == 3 and status.step == 1:
        raise KeyboardInterrupt


def test_a_run_that_has_not_ended_is_told(told, made, tmp_path):
    def stop(status):
        if status.epoch == 1 and status.step == 1:
            raise KeyboardInterrupt

    run, small_settings = tmp_path / "run", {"dim": 8, "layers": 1, "max_epochs": 3}
    with pytest.raises(KeyboardInterrupt), told_of_steps(stop):
        package.train(made.histories, "elastic", run, **small_settings)
    found = json.loads(told(run, "--json")[0])
    assert (found["state"], found["training"], len(found["curve"])) == ("not ended", None, 1)
    assert "goes on with --resume" in told(run)[0]
    rec = package.train(made.histories, out=run, resume=True)
    found = json.loads(told(run, "--json")[0])
    assert (found["state"], found["resumable"]) == ("ended", True)
    assert len(found["curve"]) == len(rec.curve) == 3
    with pytest.raises(KeyboardInterrupt), told_of_steps(stop_late):
        package.train(made.histories, out=run, resume=True, max_epochs=5)
    found = json.loads(told(run, "--json")[0])
    assert (found["state"], found["training"]["epochs"]) == ("going on", 3)


def test_a_final_run_names_the_measured_one(told, made, tmp_path):
    final = tmp_path / "final"
    package.refit(made.run, final)
    found = json.loads(told(final, "--json")[0])
    assert found["final"]
    assert found["measured"] == str(made.run.resolve())
    assert found["protocol"]["name"] == "all"
    assert "a final run, trained on all events" in " ".join(told(final)[0].replace("│", "").split())


def test_a_run_of_a_package_that_is_not_there(told, made, tmp_path, monkeypatch):
    run = shutil.copytree(made.run, tmp_path / "run")
    monkeypatch.setattr("longrec.runs.about.check_model", _unknown)
    found = json.loads(told(run, "--json")[0])
    assert "no model" in found["problem"]
    assert found["settings"]["dim"] == 8
    assert "learning_rate" in found["settings"]
    assert "warning: no model of this name" in told(run)[1]


def _unknown(name, plugin):
    raise package.UsageError("no model of this name")


def test_a_store_is_read_beside_its_writer(told, made, tmp_path):
    rec = package.load(made.run)
    with rec.open_stream(str(tmp_path / "users"), "process") as stream:
        for n in range(7):
            stream.observe("ann", f"i{n:02d}", 1_700_000_000 + n)
        stream.observe("bob", "i01", 1_700_000_000)
        for name in (tmp_path / "users", f"lmdb://{tmp_path}/users"):
            found = json.loads(told(name, "--json")[0])
            assert [found[key] for key in ("kind", "users", "events", "users_read")] == [
                *("store", 2, 8, 2),
            ]
            assert found["last_event"] == "2023-11-14T22:13:26+00:00"
        stream.observe("bob", "i02", 1_700_000_009)
    [model] = found["models"]
    assert model["digest"] == rec.state_digest
    assert model["run"] == str(made.run.resolve())
    assert found["seen_items"].split(" (")[0] in ("left out", "recommended again")
    out, _ = told(tmp_path / "users")
    assert rec.state_digest[:16] in out
    assert "2-4" in out


def test_a_store_in_redis_is_told_the_same(told, made, tmp_path):
    with RedisServer(tmp_path / "redis") as server:
        with package.load(made.run).open_stream(server.url) as stream:
            stream.observe("ann", "i01", 1_700_000_000)
            stream.observe("ann", "i02", 1_700_000_001)
            found = json.loads(told(server.url, "--json")[0])
        out, _ = told(server.url)
    assert [found[key] for key in ("users", "events", "last_event")] == [
        *(1, 2, "2023-11-14T22:13:21+00:00"),
    ]
    assert found["models"][0]["run"] == str(made.run.resolve())
    assert "of the whole server" in out


@pytest.mark.parametrize("kind", ["histories", "run"])
def test_nothing_is_wider_than_a_terminal(told, made, monkeypatch, kind):
    monkeypatch.setattr(console.out, "width", 80)
    out, _ = told(getattr(made, kind))
    assert max(map(len, out.splitlines())) <= 80


def test_what_lies_in_a_folder_is_named(made, capsys):
    assert longrec("info", made.run.parent) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert (
        "it has no events.arrow (histories), no model.safetensors or training.json (a run)" in error
    )
    assert f"{made.histories} (histories), {made.run} (run)" in error
