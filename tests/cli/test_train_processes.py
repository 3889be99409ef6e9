"""`longrec train --processes N`: what it says, what it leaves, and how it goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cli.running import longrec
from forking import Forked, run_code
from small_histories import tiny_histories, walks

from longrec import refit, train
from longrec.artifact.artifact import Artifact
from longrec.cli.processes import _wait

CODE = """
import sys
import forking
forking.fork_children()
from longrec.cli import main, processes
start = processes.start_child
def told(*arguments, **options):
    child = start(*arguments, **options)
    print("child", child.pid, file=sys.stderr, flush=True)
    return child
processes.start_child = told
sys.argv[0] = "longrec"
main.main()
"""
SMALL = [f"--set={s}" for s in ("dim=8", "layers=1", "ffn_dim=8", "batch_tokens=200")]
LONG = [*SMALL, "--set=checkpoint_minutes=1e-9", "--epochs=100000", "--set=patience=100000"]


class Ended:
    """Stands for a process: what its `poll` says, time after time."""

    def __init__(self, *statuses: int | None) -> None:
        self.statuses = list(statuses)

    def poll(self) -> int | None:
        return self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]


@pytest.mark.parametrize(
    ("children", "cause"),
    [
        ([Ended(None, 0), Ended(0)], None),
        ([Ended(75), Ended(None, 2)], (1, 2)),
        ([Ended(1), Ended(-9)], (1, -9)),
        ([Ended(75), Ended(75)], (0, 75)),
    ],
)
def test_the_cause_is_who_did_not_lose_another(monkeypatch, children, cause):
    monkeypatch.setattr("longrec.cli.processes.TICK", 0.0)
    assert _wait(children, 75) == cause


def test_another_number_than_torchruns_is_refused(monkeypatch, capsys, tmp_path):
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "3"), ("TORCHELASTIC_RUN_ID", "x")):
        monkeypatch.setenv(name, value)
    assert longrec("train", tmp_path, "--out", tmp_path / "run", "--processes", 2) == 2
    assert "torchrun has started 3 processes: leave it out" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        *(["evaluate", "run"], ["recommend", "run", "--all"], ["compare", "histories"]),
        *(
            ["prepare", "log.csv"],
            ["store", "verify", "lmdb://users"],
            ["push", "run", "qdrant:///x"],
        ),
    ],
)
def test_what_processes_do_not_share_is_refused_under_torchrun(monkeypatch, capsys, words):
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("TORCHELASTIC_RUN_ID", "x")):
        monkeypatch.setenv(name, value)
    assert longrec(*words) == 2
    said = capsys.readouterr().err
    assert f"each would do all of `longrec {words[0]}`: call it without torchrun" in said
    assert said.count("\n") == 1
    monkeypatch.setenv("WORLD_SIZE", "two")
    assert longrec(*words) == 2
    assert "WORLD_SIZE='two'" in capsys.readouterr().err


class Training:
    """A training in two processes, their pids, and what it says."""

    def __init__(self, *arguments: object, verb: str = "train", number: int = 2) -> None:
        words = (verb, *arguments, "--processes", number)
        self.parent: Forked = run_code(CODE, *words, stderr=subprocess.PIPE, text=True)
        self.pids: list[int] = []
        while len(self.pids) < number:
            line = self.parent.stderr.readline()
            assert line, "it ended before its processes began"
            if line.startswith("child "):
                self.pids.append(int(line.split()[1]))

    def end(self) -> tuple[int, str]:
        said = self.parent.stderr.read()
        return self.parent.wait(), said

    def all_ended(self) -> bool:
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 0)
                return False
        return True


def wait_until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 240
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def newest(run: Path) -> str:
    return max((p.name for p in run.glob("checkpoint-*")), default="")


@pytest.mark.slow
def test_whatever_ends_it_nothing_is_left_and_it_goes_on(tmp_path, capsys):
    histories = tiny_histories(tmp_path / "histories", walks(30, 20, 3, 20), n_items=20).path
    run = tmp_path / "run"
    go_on = f"go on with: longrec train {histories} --out {run} --processes 2 --resume"

    training = Training(histories, "--out", run, *LONG)
    wait_until(lambda: bool(newest(run)))
    os.kill(training.pids[1], signal.SIGKILL)
    status, said = training.end()
    assert status == 1
    assert said.splitlines()[-1] == (
        "error: process 2 of 2 was killed by signal 9 (SIGKILL), perhaps because memory ran out; "
        + go_on
    )
    assert said.count("error") == 1
    assert training.all_ended()

    before, training = newest(run), Training(histories, "--out", run, "--resume")
    wait_until(lambda: newest(run) > before)
    training.parent.send_signal(signal.SIGINT)
    status, said = training.end()
    assert (status, said.splitlines()[-1]) == (1, f"error: interrupted; {go_on}")
    assert training.all_ended()

    before, training = newest(run), Training(histories, "--out", run, "--resume")
    wait_until(lambda: newest(run) > before)
    training.parent.send_signal(signal.SIGKILL)
    training.parent.wait()
    wait_until(training.all_ended)

    training = Training(histories, "--out", run, "--resume", "--set", "dim=16")
    status, said = training.end()
    assert status == 2
    assert said.count("error") == 1
    assert "started with dim=8, not 16" in said

    before, training = newest(run), Training(histories, "--out", run, "--resume")
    wait_until(lambda: newest(run) > before)
    os.kill(training.pids[0], signal.SIGTERM)
    status, said = training.end()
    assert (status, said.splitlines()[-1]) == (1, f"error: interrupted; {go_on}")
    assert training.all_ended()

    assert longrec("train", histories, "--out", run, "--resume", "--epochs", 1) == 0
    assert Artifact.load(run).provenance["training"]["stop"] == "max_epochs"


@pytest.mark.slow
def test_more_processes_than_users_refit_as_one(tmp_path):
    rows = [[1, 2, 3, 4, 1, 2, 3], [2, 3, 4, 1, 2, 4]]
    histories = tiny_histories(tmp_path / "histories", rows, n_items=4)
    run, one, many = (tmp_path / name for name in ("run", "one", "many"))
    quick = {"dim": 8, "layers": 1, "ffn_dim": 8, "dropout": 0.0, "max_epochs": 2}
    train(histories, "elastic", run, **quick, loss="sampled", negatives=2)
    refit(run, one)
    status, said = Training(run, "--out", many, verb="refit", number=3).end()
    assert status == 0, said
    found, whole = Artifact.load(many), Artifact.load(one)
    for name, x in whole.model.state_dict().items():
        torch.testing.assert_close(found.model.state_dict()[name], x, rtol=1e-4, atol=1e-6)
    ended = [a.provenance["training"] for a in (found, whole)]
    assert ended[0]["processes"] == 3
    assert ended[0]["events"] == ended[1]["events"] == 11 * ended[1]["epochs"]
    assert found.provenance["refit"] == whole.provenance["refit"]
