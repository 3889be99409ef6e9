"""`longrec bench cost` on tiny histories, and what it says of cells made by hand."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from bench.called import longrec_bench
from hypothesis import given
from hypothesis import strategies as st

from longrec.core.errors import LongrecError, UsageError
from longrec_bench.cost import turns
from longrec_bench.cost.analysis import crossovers, exponents, ratios
from longrec_bench.cost.counted import operations
from longrec_bench.cost.goals import goals
from longrec_bench.cost.limits import limits
from longrec_bench.cost.plan import CostPlan
from longrec_bench.cost.processes import Processes
from longrec_bench.cost.subjects import (
    FUSED,
    NAIVE,
    make_mixer,
    make_model,
    mixer_names,
    model_names,
    powers,
    streams,
)
from longrec_bench.cost.turns import Turns, available_memory
from longrec_bench.cost.work import make_work

FIGURES = {"seconds_median", "seconds_min", "seconds_max", "peak_bytes"}
KEYS = FIGURES | {
    *("length", "pass", "batch", "threads", "repeats"),
    *("events_per_second", "processor_share", "operations"),
}
TINY = ["--lengths", "32,64", "--rounds", "1", "--cap", "1"]
BOTH = "forward+backward"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What one whole run prints, and the folder that it writes."""
    out = tmp_path_factory.mktemp("cost") / "out"
    argv = ["--mixers", "dispatcher,softmax", "--models", "sasrec,free"]
    more = ["--slots", "16", "--catalogs", "50", "--json", "--out", out]
    done = longrec_bench("cost", *TINY, *argv, *more)
    assert done.exit_code == 0
    return json.loads(done.stdout), out


@pytest.fixture(scope="module")
def processes():
    with Processes() as started:
        yield started


def task(name: str, length: int = 8, **more: Any) -> dict[str, Any]:
    of = {"kind": "mixer", "name": name, "length": length, "pass": "forward", "batch": 1}
    always = {"cores": [], "threads": 1, "seed": 0, "share": 0.0, "limit": 30.0}
    return of | always | {"most": 1, "count": False} | more


def test_cells_are_complete(found):
    cells = found[0]
    told = []
    for cell in cells:
        kind = next(iter(cell))
        size = {"bank": {"slots"}, "loss": {"catalog"}}.get(kind, set())
        assert set(cell) == KEYS | {kind} | size
        told.append((cell[kind], cell["pass"], cell["length"], *(cell[key] for key in size)))
        assert 0 < cell["seconds_min"] <= cell["seconds_median"] <= cell["seconds_max"]
        assert cell["repeats"] >= 1
        assert cell["peak_bytes"] is None or cell["peak_bytes"] >= 0
        assert 0 < cell["events_per_second"] * cell["seconds_median"] < 2001
    passes = {"softmax": 2, "sasrec": 2, "dispatcher": 3, "free": 3}
    wanted = {
        (name, which, length)
        for name, number in passes.items()
        for which in ("forward", BOTH, "step")[:number]
        for length in (32, 64)
    }
    banks = {("read", "forward", 1), ("training", BOTH, 200), ("stream", "step", 200)}
    wanted |= {(*bank, 16) for bank in banks}
    wanted |= {(name, BOTH, 1, 50) for name in ("full", "sampled")}
    assert len(told) == len(set(told))
    assert set(told) == wanted


def test_the_folder_holds_the_rest(found):
    cells, out = found
    written = json.loads((out / "found.json").read_text())
    assert written["cells"] == cells
    assert written["skipped"] == []
    compared = {row.get("mixer", row.get("model")) for row in written["ratios"]}
    assert compared == {"dispatcher", "free"}
    assert all(row["ceiling"] > 0 for row in written["ratios"] if "model" in row)
    assert all(rate > 0 for rate in written["machine"]["rates"].values())
    with (out / "cells.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["seconds_median"]) for row in rows] == [c["seconds_median"] for c in cells]
    names = {path.name for path in out.iterdir()}
    drawn = {f"{kind}-{what}" for kind in ("mixer", "model") for what in ("time", "ratio")}
    for name in drawn | {"bank", "loss"}:
        assert {f"{name}.png", f"{name}.svg"} <= names
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "| dispatcher |" in (out / "tables.md").read_text()


def test_mistakes_are_refused(tmp_path):
    (tmp_path / "mine").write_text("")
    for argv, words in (
        (["--models", "elastik"], "no model 'elastik'"),
        (["--mixers", "sasrec"], "no mixer 'sasrec'"),
        (["--models", "none"], "nothing is left to measure"),
        (["--lengths", "4,x"], "lengths is '4,x'"),
        (["--lengths", "4,0"], "at least 1"),
        (["--lengths", "4,4"], "twice"),
        (["--slots", "1000"], "square"),
        (["--threads", "1000"], "may use"),
        (["--cap", "0"], "cap is 0"),
        (["--mixers", "softmax", "--out", tmp_path], "name a new or an empty folder"),
    ):
        with pytest.raises(UsageError, match=words):
            longrec_bench("cost", *argv)


def test_a_failing_process_is_told(processes):
    assert "nothing" in processes.measure(task("nothing"))["failed"]
    huge = processes.measure(task(NAIVE, 1 << 40))
    assert "memory" in huge["failed"]
    assert processes.measure(task(FUSED, limit=0.0))["failed"].startswith("stopped")
    assert len(processes.measure(task(FUSED))["seconds"]) == 1  # and the next is measured


def test_the_peak_is_that_of_the_pass(processes):
    naive, fused = (processes.measure(task(name, 1024))["peak_bytes"] for name in (NAIVE, FUSED))
    if naive is not None:
        scores = 2 * 1024 * 1024 * 4
        assert naive > scores > fused > 0


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")
def test_nothing_goes_on_when_interrupted():
    with Processes() as started:
        stdin = started._forks.stdin
        stdin.write(json.dumps(task(NAIVE, 30_000, limit=600.0)).encode() + b"\n")
        stdin.flush()
        pids = Path(f"/proc/{started._forks.pid}/task/{started._forks.pid}/children")
        while not (children := pids.read_text().split()):
            time.sleep(0.05)
    assert started._forks.returncode == 1  # it ended by itself, once it had killed its own
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)


def test_the_end_of_the_starting_process_is_told():
    with Processes() as started:
        started._forks.kill()
        with pytest.raises(LongrecError, match="SIGKILL"):
            started.measure(task(FUSED))


class Answers:
    """Stands for processes: each task costs what a function says; notes the order."""

    def __init__(self, seconds: Any, peak: Any = lambda task: 1000) -> None:
        self.seconds, self.peak, self.asked = seconds, peak, []

    def measure(self, task: dict[str, Any]) -> dict[str, Any]:
        self.asked.append((task["name"], task["length"], task["pass"]))
        seconds = self.seconds(task)
        if seconds is None:
            return {"failed": "killed"}
        found = {"seconds": [seconds, 2 * seconds, 3 * seconds], "processor": 6 * seconds}
        return found | {"peak_bytes": self.peak(task), "setup": 0.0, "operations": 7}


def taken(answers: Answers, **plan: Any) -> Turns:
    usual = {"batch": 1, "mixers": (FUSED, "hydra"), "models": (), "slots": (), "catalogs": ()}
    measured = Turns(CostPlan(**usual | plan), answers, lambda *_: None)
    measured.take()
    return measured


def test_turns_alternate_and_are_summed_up():
    answers = Answers(lambda task: 0.1)
    cells = taken(answers, lengths=(10, 20), rounds=4).cells
    assert len(cells) == 10  # hydra has steps too
    first = answers.asked[:8]  # four rounds of the two cells of one length and pass
    assert {(length, which) for _, length, which in first} == {(10, "forward")}
    assert all({a[0], b[0]} == {FUSED, "hydra"} for a, b in zip(first[::2], first[1::2]))  # noqa: B905
    assert cells[0]["repeats"] == 12
    assert (cells[0]["seconds_min"], cells[0]["seconds_max"]) == pytest.approx((0.1, 0.3))
    assert cells[0]["seconds_median"] == pytest.approx(0.2)
    assert cells[0]["events_per_second"] == pytest.approx(50)
    assert cells[0]["processor_share"] == pytest.approx(1)


def test_what_would_take_too_long_is_skipped():
    seconds = lambda task: 1e-4 * task["length"] ** (2 if task["name"] == FUSED else 1)  # noqa: E731
    measured = taken(Answers(seconds), lengths=(10, 40, 160, 640), cap=6.0)
    fused = [cell["length"] for cell in measured.cells if cell["mixer"] == FUSED]
    assert fused == [10, 10, 40, 40, 160, 160]
    assert [row["length"] for row in measured.skipped] == [640, 640]
    assert all("above the cap of 6 s" in row["why"] for row in measured.skipped)
    assert {row["mixer"] for row in measured.skipped} == {FUSED}


def test_what_would_take_too_much_memory_is_skipped(monkeypatch):
    monkeypatch.setattr(turns, "available_memory", lambda: 10_000)
    peak = lambda task: 10 * task["length"]  # noqa: E731
    measured = taken(Answers(lambda task: 1e-6, peak), mixers=(NAIVE, FUSED), lengths=(10, 100))
    assert [(row["mixer"], row["length"]) for row in measured.skipped] == [(NAIVE, 100)] * 2
    assert all("GiB predicted" in row["why"] for row in measured.skipped)


def test_what_fails_is_told_and_not_tried_longer():
    def seconds(task):
        fails = task["name"] == "hydra" and task["length"] == 20 and task["pass"] == "forward"
        return None if fails else 0.01

    answers = Answers(seconds)
    measured = taken(answers, mixers=("hydra",), lengths=(10, 20, 40), rounds=3)
    assert answers.asked.count(("hydra", 20, "forward")) == 1
    assert [(row["length"], row["pass"], row["why"]) for row in measured.skipped] == [
        (20, "forward", "failed: killed"),
        (40, "forward", "failed at 20"),
        (40, "step", "its state needs a forward pass, which was not measured"),
    ]


def test_long_cells_have_two_turns_at_least():
    answers = Answers(lambda task: 5.0)
    taken(answers, mixers=(FUSED,), lengths=(10,), rounds=5, cap=10.0)
    assert answers.asked.count((FUSED, 10, "forward")) == 2


def test_losses_take_fewer_targets_where_the_cap_demands_it():
    answers = Answers(lambda task: 1e-6 * task["batch"] * task["catalog"])
    sizes = (1000, 10_000, 100_000)
    cells = taken(answers, mixers=(), catalogs=sizes, cap=10.0).cells
    batches = [(cell["catalog"], cell["batch"]) for cell in cells if cell["loss"] == "full"]
    assert batches == [(1000, 1000), (10_000, 250), (100_000, 25)]


def test_the_naive_form_is_the_same_attention():
    x, fused, naive = torch.randn(2, 33, 64), make_mixer(FUSED), make_mixer(NAIVE)
    naive.load_state_dict(fused.state_dict())
    torch.testing.assert_close(naive(x), fused(x))
    counts = []
    for mixer in (fused, naive):
        with torch.no_grad():
            counts.append(operations(lambda mixer=mixer: mixer(x)))
    projections, scores = 4 * 2 * 66 * 64 * 64, 4 * 2 * 33 * 33 * 64
    assert counts == [projections + scores // 2, projections + scores]


def test_everything_that_is_registered_can_be_measured():
    for kind, names in (("mixer", mixer_names()), ("model", model_names())):
        for name in names:
            assert powers(kind, name)[0] in (1, 2)
            for which in ("forward", BOTH, "step")[: 3 if streams(kind, name) else 2]:
                of = {"kind": kind, "name": name, "length": 5, "pass": which, "batch": 2}
                work = make_work(of)
                work.prepare()
                work.run()
    config = make_model("sasrec-naive", 7).config
    assert (config.max_length, config.dim, config.layers, config.dropout) == (7, 64, 2, 0.0)


def cell(name: str, length: int, seconds: float, which: str = BOTH, **more: Any) -> dict[str, Any]:
    kind = "mixer" if name in mixer_names() else "model"
    figures = {"seconds_median": seconds, "seconds_min": seconds, "seconds_max": seconds}
    more = {"peak_bytes": 1000, "operations": 10, "batch": 1} | more
    return {kind: name, "length": length, "pass": which, **figures, **more}


@given(st.floats(0.5, 2.5), st.floats(1e-7, 1e-3), st.permutations([128, 1024, 4096, 16_384]))
def test_growth_is_fitted_to_long_histories(power, scale, lengths):
    cells = [cell("hydra", n, 1.0 if n < 1024 else scale * n**power) for n in lengths]
    (row,) = exponents(cells)
    assert row["seconds"] == pytest.approx(power)
    assert row["bytes"] == pytest.approx(0, abs=1e-9)
    assert (row["from"], row["to"]) == (1024, 16_384)


@given(st.floats(150, 60_000))
def test_crossover_is_where_the_ratio_is_one(length):
    """Of a linear cost and a quadratic one, between lengths that were measured."""
    lengths = (128, 512, 4096, 65_536)
    cells = [cell("softmax", n, 1e-6 * n * n) for n in lengths]
    cells += [cell("hydra", n, 1e-6 * n * length) for n in lengths]
    (row,) = crossovers(cells)
    assert row["length"] == pytest.approx(length)
    assert not row["everywhere"]


def test_crossover_at_an_end():
    cells = [cell("softmax", n, 1.0) for n in (8, 16)]
    always, never = ([cell("hydra", n, s) for n in (8, 16)] for s in (0.5, 2.0))
    assert crossovers(cells + always)[0]["length"] == 8
    assert crossovers(cells + never)[0]["length"] is None


def test_ratios_stand_beside_their_ceiling():
    cells = [cell("sasrec", 64, 6.0), cell("elastic", 64, 3.0, peak_bytes=500)]
    (row,) = ratios(cells)
    assert (row["ratio"], row["memory"], row["ceiling"]) == (2.0, 0.5, None)
    assert ratios([*cells, cell("free", 64, 2.0)])[0]["ceiling"] == 3.0
    assert ratios([cell("elastic", 64, 3.0)]) == []


def test_limits_are_operations_over_the_best_rate():
    rates = {"gigaflops float32 a": 2.0, "gigaflops float32 b": 4.0, "gigabytes copied": 1.0}
    (row,) = limits([cell("hydra", 2048, 2.0, operations=2 * 10**9)], rates)
    assert row["operations_seconds"] == pytest.approx(0.5)
    assert row["share"] == pytest.approx(0.25)
    assert row["bytes_seconds"] == pytest.approx(4 * 4 * 64 * 2048 / 1e9)


def goal_cells(fast: float) -> list[dict[str, Any]]:
    """Cells of a machine where what is linear is so many times as fast as need be."""
    found = []
    for n in (200, 512, 1024, 4096, 16_384, 65_536, 1_048_576):
        for which in ("forward", BOTH):
            found += [
                cell(name, n, 1e-6 * n * n, which, peak_bytes=peak)
                for name, peak in (("softmax", 100), ("sasrec", 100), (NAIVE, 10_000))
            ]
            found += [
                cell(name, n, 1e-6 * n * 150 / fast, which, peak_bytes=120 / fast)
                | {"events_per_second": 1.0}
                for name in ("dispatcher", "elastic", "hydrarec")
            ]
        found.append(cell("sasrec-naive", n, 1.0, peak_bytes=10_000))
    for name in ("training", "stream"):
        for slots, seconds in ((1 << 10, 1.0), (1 << 20, 1.1 / fast)):
            found.append({"bank": name, "slots": slots, "pass": BOTH, "seconds_median": seconds})
    return found


def test_goals_are_met_or_not():
    met, missed = goals(goal_cells(1.0)), goals(goal_cells(0.001))
    assert len(met) == len(missed) == 14 + 4 + 1 + 1 + 2
    assert [row["goal"] for row in met if not row["met"]] == []
    # Growth and boundedness do not depend on speed.
    still = [row["goal"] for row in missed if row["met"]]
    assert len(still) == 5
    assert all("grows" in words or "encodes" in words for words in still)
    assert goals([]) == []


def test_available_memory_is_less_than_all():
    there = available_memory()
    assert there is None or 0 < there < 1 << 50


def test_short_histories_are_read_many_at_once_and_told_each():
    answers = Answers(lambda task: 0.2)
    cells = taken(answers, batch=None, mixers=("hydra",), lengths=(1000, 10_000)).cells
    told = {
        (cell["length"], cell["pass"]): (cell["batch"], cell["seconds_median"]) for cell in cells
    }
    assert told[1000, "forward"] == (4, pytest.approx(0.1))
    assert told[1000, "step"] == told[10_000, "forward"] == (1, pytest.approx(0.4))
    rates = [cell["events_per_second"] for cell in cells if cell["pass"] == "forward"]
    assert rates == pytest.approx([4 * 1000 / 0.4, 10_000 / 0.4])
