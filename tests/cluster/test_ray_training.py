"""A training that Ray Train starts is that of `--processes`, also where a worker is killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from cli.test_train_processes import Training
from small_histories import tiny_histories, walks

import longrec
from longrec.artifact.training_log import ValidationRow, frame_of, write_log
from longrec.cli import main as cli
from longrec.cluster.ray_cluster import NO_LONGREC, Cluster
from longrec.cluster.training import _cause, _Log, _takes_gpus, train_on
from longrec.core.errors import DataError, LongrecError, UsageError
from longrec.training.processes import ProcessLost

QUICK = {"dim": 8, "layers": 1, "ffn_dim": 8, "dropout": 0.0, "transitions": 0, "max_epochs": 3}
QUICK |= {"batch_tokens": 200, "learning_rate": 1e-2, "warmup_steps": 5}


@pytest.mark.slow
@pytest.mark.timeout(1800)  # Ray Train starts nine processes, and after the kill again
def test_a_worker_is_killed_and_the_model_is_that_of_processes_of_this_machine(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.3")
    data = tiny_histories(tmp_path / "histories", walks(30, 20, 3, 20), n_items=20)
    settings = [f"--set={key}={value}" for key, value in QUICK.items()]
    status, said = Training(
        data.path, "--model", "elastic", "--out", tmp_path / "here", *settings
    ).end()
    assert status == 0, said
    here = longrec.load(tmp_path / "here")
    run, killed = tmp_path / "run", tmp_path / "killed"

    def train(**call: Any) -> Any:
        def on_epoch(reached: longrec.Progress) -> None:
            if reached.epoch == 1 and not killed.exists():
                while not list(run.glob("checkpoint-*")):
                    time.sleep(0.02)
                killed.touch()
                os.kill(os.getpid(), signal.SIGKILL)

        return longrec.train(**(call | {"on_epoch": on_epoch}))

    told: list[Any] = []
    call = {"histories": data.path, "model": "elastic", "out": run, **QUICK}
    call |= {"resume": False, "overwrite": False, "device": "auto"}
    found = train_on(cluster, 2, train, call, told.append)
    assert killed.exists()
    assert [row["epoch"] for row in told] == [1, 2, 3]  # each once
    weights = found.model.state_dict()
    for name, x in here.model.state_dict().items():
        assert torch.equal(weights[name], x), name
    logs = [pl.read_csv(rec.folder / "log.csv").drop("seconds") for rec in (here, found)]
    assert logs[0].equals(logs[1])
    ended = [rec.provenance["training"] | {"seconds": 0} for rec in (here, found)]
    assert ended[0] == ended[1]
    assert ended[0]["processes"] == 2
    assert found.provenance["baselines"] == here.provenance["baselines"]
    # What Ray Train wants for itself is gone, and so is the run's lock.
    assert sorted(os.listdir(tmp_path)) == ["here", "histories", "killed", "run"]
    assert sorted(os.listdir(run)) == sorted(os.listdir(tmp_path / "here"))


def test_the_command_line_lets_ray_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    data = tiny_histories(tmp_path / "histories", walks(9, 9, 3, 9), n_items=9)
    asked: dict[str, Any] = {}

    def trained(cluster: Any, number: int, train: Any, call: Any, show: Any, plugins: Any) -> Any:
        asked.update(call, number=number, train=train)
        show({"epoch": 1, "ndcg10": 0.25, "loss": 1.0, "seconds": 3.0})
        raise UsageError("that is all")

    @contextmanager
    def cluster(address: str, processors: int) -> Iterator[str]:
        assert (address, processors) == ("head:6379", 4)
        yield "a cluster"

    monkeypatch.setattr("longrec.cluster.training.train_on", trained)
    monkeypatch.setattr("longrec.cluster.ray_cluster.ray_cluster", cluster)
    words = ["train", data.path, "--out", tmp_path / "run", "--processes", "4", "--epochs", "7"]
    words += ["--engine", "ray", "--address", "head:6379"]
    monkeypatch.setattr("sys.argv", ["longrec", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.endswith("epoch 1  NDCG@10 0.2500  loss 1.0000  3.0 s\nerror: that is all\n")
    assert asked["train"] is longrec.train
    assert (asked["number"], asked["max_epochs"], asked["resume"]) == (4, 7, False)
    assert asked["histories"] == data.path  # which workers open for themselves


def test_rows_of_a_log_are_told_once(tmp_path: Path) -> None:
    def write(*epochs: int, loss: float = 1.0) -> None:
        rows = [ValidationRow(e, e, 1.0, 9, loss, ndcg10=0.5, hr10=0.5) for e in epochs]
        write_log(tmp_path, frame_of(rows))

    log = _Log(tmp_path)
    for rows, new in (([1], [1]), ([1, 2, 3], [2, 3]), ([1, 2, 3], []), ([], [])):
        write(*rows)
        assert [row["epoch"] for row in log.new()] == new
    write(1, 2)
    log = _Log(tmp_path)
    write(1, 2, loss=2.0)  # another training in its place
    assert [row["epoch"] for row in log.new()] == [1, 2]


def test_what_a_cluster_has_not_is_told() -> None:
    class Three(Cluster):
        def __init__(self) -> None:
            self.slots, self.gpus = 3, 2

    assert not _takes_gpus(Three(), 3, "auto")
    assert _takes_gpus(Three(), 2, "auto")
    assert not _takes_gpus(Three(), 2, "cpu")
    with pytest.raises(UsageError, match="has 3 processors, fewer than 4 processes"):
        _takes_gpus(Three(), 4, "cpu")
    with pytest.raises(UsageError, match="has 2 GPUs, fewer than 3 processes"):
        _takes_gpus(Three(), 3, "cuda")
    with pytest.raises(UsageError, match=r"device is 'cuda:1'.*give auto, cpu or cuda"):
        _takes_gpus(Three(), 1, "cuda:1")


@pytest.mark.slow
def test_the_cause_is_who_did_not_lose_another() -> None:
    ray = pytest.importorskip("ray")

    def failed(**facts: Any) -> Exception:
        error = Exception("Training failed\nin many lines")
        vars(error).update(facts)
        return _cause(error, 2)

    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

    died = WorkerHealthCheckFailedError("died\nbecause", ray.exceptions.ActorDiedError())
    lost = ProcessLost("lost")
    wrong = DataError("wrong")
    assert failed(worker_failures={0: lost, 1: wrong}) is wrong
    fault = KeyError("x")
    assert failed(worker_failures={0: died, 1: fault}) is fault
    gone = ModuleNotFoundError("No module named 'longrec.cluster.training'")
    assert str(failed(worker_failures={1: gone})) == NO_LONGREC
    for failures in ({0: lost, 1: died}, {}):
        cause = failed(worker_failures=failures)
        assert isinstance(cause, ProcessLost)
        assert "lost 4 times" in str(cause)
        assert "\n" not in str(cause)
    late = type("WorkerGroupStartupTimeoutError", (Exception,), {})
    cause = failed(controller_failure=late())
    assert not isinstance(cause, ProcessLost)
    assert isinstance(cause, LongrecError)
    assert "had not 2 processors or GPUs free within 10 minutes" in str(cause)
