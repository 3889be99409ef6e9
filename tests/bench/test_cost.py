"""`longrec bench cost` on tiny histories: whole results, and the processes that measure."""

from __future__ import annotations

import csv
import json
import multiprocessing
import signal
import time
from functools import partial
from multiprocessing import forkserver
from typing import Any

import psutil
import pytest
import torch
from bench.command import longrec_bench

from longrec_bench.cost import worker
from longrec_bench.cost.passes import make_passes
from longrec_bench.cost.roofline import count_operations
from longrec_bench.cost.systems import (
    FUSED,
    NAIVE,
    expected_growth,
    has_step,
    make_mixer,
    make_model,
    mixer_names,
    model_names,
)
from longrec_bench.cost.worker import measure_in_process
from longrec_bench.plan import PASSES

KEYS = {
    *("seconds_median", "seconds_min", "seconds_max", "peak_bytes"),
    *("length", "pass", "batch", "threads", "repeats"),
    *("events_per_second", "processor_share", "operations", "state_bytes"),
}
BOTH = PASSES[1]


def task(name: str, length: int = 8, **more: Any) -> dict[str, Any]:
    of = {"kind": "mixer", "name": name, "length": length, "pass": "forward", "batch": 1}
    settings = {"cores": [], "threads": 1, "seed": 0, "share": 0.0, "limit": 30.0}
    return of | settings | {"most": 1, "count": False} | more


# ---- the command


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What one whole run prints, and the folder that it writes."""
    out = tmp_path_factory.mktemp("cost") / "out"
    argv = ["--models", "sasrec,free", "--lengths", "16", "--batch", "1"]
    more = ["--slots", "16", "--catalogs", "50", "--rounds", "1", "--cap", "1"]
    done = longrec_bench("cost", *argv, *more, "--json", "--out", out)
    assert done.exit_code == 0
    return json.loads(done.stdout), out


@pytest.mark.slow
def test_cells_are_complete(found):
    conditions = []
    for cell in found[0]:
        kind = next(iter(cell))
        size = {"bank": {"slots"}, "loss": {"catalog"}}.get(kind, set())
        assert set(cell) == KEYS | {kind} | size
        conditions.append((cell[kind], cell["pass"], cell["length"], *(cell[key] for key in size)))
        assert 0 < cell["seconds_min"] <= cell["seconds_median"] <= cell["seconds_max"]
        assert cell["repeats"] >= 1
        assert cell["peak_bytes"] is None or cell["peak_bytes"] >= 0
        assert 0 < cell["events_per_second"] * cell["seconds_median"] < 2001
    passes = {"sasrec": 2, "free": 3}
    expected = {(name, which, 16) for name, number in passes.items() for which in PASSES[:number]}
    banks = {("read", "forward", 1), ("training", BOTH, 200), ("stream", "step", 200)}
    expected |= {(*bank, 16) for bank in banks}
    expected |= {(name, BOTH, 1, 50) for name in ("full", "sampled")}
    assert len(conditions) == len(expected)
    assert set(conditions) == expected


@pytest.mark.slow
def test_the_folder_holds_the_rest(found):
    cells, out = found
    written = json.loads((out / "found.json").read_text())
    assert written["cells"] == cells
    assert written["skipped"] == []
    assert {row["model"] for row in written["ratios"]} == {"free"}
    assert all(row["ceiling"] > 0 for row in written["ratios"])
    assert all(rate > 0 for rate in written["machine"]["rates"].values())
    assert any(cell["operations"] for cell in cells)
    with (out / "cells.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["seconds_median"]) for row in rows] == [c["seconds_median"] for c in cells]
    assert [row["slots"] for row in rows] == [str(cell.get("slots", "")) for cell in cells]
    names = {path.name for path in out.iterdir()}
    for name in ("model-time", "model-ratio", "bank", "loss"):
        assert {f"{name}.png", f"{name}.svg"} <= names
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    text = (out / "tables.md").read_text()
    machine = ("### machine", "- threads: 1, ", "- gigabytes copied: ")
    for words in ("| sasrec |", *machine, "### method", "(commit"):
        assert words in text


# ---- a process for each sample


@pytest.mark.slow
def test_a_process_that_fails_is_reported_and_the_next_one_measures():
    assert "nothing" in measure_in_process(task("nothing"))["failed"]
    assert "memory" in measure_in_process(task(NAIVE, 1 << 40))["failed"]
    assert measure_in_process(task(FUSED, limit=0.0))["failed"].startswith("stopped")
    server = psutil.Process(forkserver._forkserver._forkserver_pid)
    server.kill()
    while server.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert len(measure_in_process(task(FUSED))["seconds"]) == 1
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_the_peak_is_that_of_the_pass():
    naive, fused = (measure_in_process(task(name, 1024))["peak_bytes"] for name in (NAIVE, FUSED))
    if naive is not None:
        scores = 2 * 1024 * 1024 * 4
        assert naive > scores > fused > 0


def test_an_interrupted_sample_ends_its_process():
    def interrupt(*_: object) -> None:
        children.extend(child.pid for child in multiprocessing.active_children())
        raise KeyboardInterrupt

    children: list[int] = []
    before = signal.signal(signal.SIGALRM, interrupt)
    measure_in_process(task(FUSED))  # so that the next one starts at once
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            measure_in_process(task(NAIVE, 30_000, limit=600.0))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert children
    assert not any(psutil.pid_exists(pid) for pid in children)


def test_a_sample_ends_with_its_parent():
    process = multiprocessing.get_context("forkserver").Process(target=worker._end_with_parent)
    worker._start(process)
    child = psutil.Process(process.pid)
    process.join(0.1)
    assert child.is_running()
    process._popen.finalizer()  # closes what closes when a parent dies
    multiprocessing.process._children.discard(process)  # which nobody can wait for any more
    assert psutil.wait_procs([child], 20)[1] == []


# ---- what is measured


def test_the_naive_form_is_the_same_attention():
    x, fused, naive = torch.randn(2, 33, 64), make_mixer(FUSED), make_mixer(NAIVE)
    naive.load_state_dict(fused.state_dict())
    torch.testing.assert_close(naive(x), fused(x))
    projections, scores = 4 * 2 * 66 * 64 * 64, 4 * 2 * 33 * 33 * 64
    with torch.no_grad():
        assert count_operations(lambda: fused(x)) == projections + scores // 2
        assert count_operations(lambda: naive(x)) == projections + scores


def test_everything_that_is_registered_can_be_measured():
    for kind, names in (("mixer", mixer_names()), ("model", model_names())):
        for name in names:
            assert expected_growth(kind, name)[0] in (1, 2)
            for which in PASSES[: 3 if has_step(kind, name) else 2]:
                of = {"kind": kind, "name": name, "length": 5, "pass": which, "batch": 2}
                passes = make_passes(of)
                passes.run(passes.small)
                passes.prepare()
                assert name == "free" or count_operations(partial(passes.run, passes.size)) > 0
    config = make_model("sasrec-naive", 7).config
    assert (config.max_length, config.dim, config.layers, config.dropout) == (7, 64, 2, 0.0)


def test_a_mixer_that_costs_nothing_changes_nothing():
    x = torch.randn(2, 5, 64)
    mixer = make_model("free", 5).blocks[0].mixer
    assert mixer(x) is x
    assert mixer.step(x[:, 0], mixer.initial_state(2))[0].equal(x[:, 0])
