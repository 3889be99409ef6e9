"""Checkpoints are written beside the training, one at a time, and their failures are told."""

from __future__ import annotations

import errno
import threading

import pytest
import torch
from training.small_runs import model_of, run_of

from longrec.training import checkpoint, checkpoint_writer
from longrec.training.checkpoint import load_checkpoint
from longrec.training.checkpoint_writer import CheckpointWriter

EVERY_STEP = 1e-9  # minutes


@pytest.fixture
def histories(make_histories, ring):
    return make_histories(ring(20, 25, 3, 20), n_items=25)


@pytest.fixture
def gate(monkeypatch):
    """Writing stops before its first file until the gate is opened."""
    opened, real = threading.Event(), checkpoint.save_file

    def waiting(*args):
        assert opened.wait(20)
        real(*args)

    monkeypatch.setattr(checkpoint, "save_file", waiting)
    return opened


def test_what_is_written_is_of_the_moment_of_saving(tmp_path, gate):
    weights, best = {"a": torch.zeros(3), "t": torch.ones(2, 3).t()}, {"a": torch.full((2,), 5.0)}
    with CheckpointWriter(tmp_path) as writer:
        writer.save(weights, best, {"step": 1})
        assert writer.busy
        weights["a"] += 1  # training goes on
        weights["t"] += 1
        gate.set()
    assert not writer.busy
    tensors, kept, state = load_checkpoint(tmp_path)
    assert torch.equal(tensors["a"], torch.zeros(3))
    assert torch.equal(tensors["t"], torch.ones(3, 2))
    assert torch.equal(kept["a"], best["a"])
    assert state == {"step": 1}


def test_one_at_a_time_and_the_best_weights_once(tmp_path, monkeypatch):
    written, real = [], checkpoint.save_file
    monkeypatch.setattr(
        checkpoint, "save_file", lambda t, path: (written.append(path.name), real(t, path))
    )
    weights, best = {"a": torch.zeros(3)}, {"a": torch.zeros(2)}
    with CheckpointWriter(tmp_path) as writer:
        places = []
        for step in range(4):
            if step == 2:
                writer.best_changes()
                best["a"] += 1
            weights["a"] += 1
            writer.save(weights, best, {"step": step})
            places.append(writer._copies["a"].data_ptr())
    assert written.count("tensors.safetensors") == 4
    assert written.count("best.safetensors") == 2
    assert len(set(places)) == 1  # one copy, used again
    tensors, kept, state = load_checkpoint(tmp_path)
    assert (float(tensors["a"][0]), float(kept["a"][0]), state["step"]) == (4, 1, 3)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_resumed_run_links_the_best_weights_that_are_there(tmp_path, monkeypatch):
    weights = {"a": torch.zeros(3)}
    with CheckpointWriter(tmp_path) as writer:
        writer.save(weights, {"a": torch.ones(2)}, {})
    for links in (True, False):
        if not links:
            monkeypatch.setattr(checkpoint.os, "link", _no_links)
        with CheckpointWriter(tmp_path, best_is_written=True) as writer:
            writer.save(weights, {}, {})
        assert torch.equal(load_checkpoint(tmp_path)[1]["a"], torch.ones(2))


def _no_links(*_: object) -> None:
    raise OSError(errno.EPERM, "no hard links here")


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, histories, gate):
    """All steps of an epoch pass though the first checkpoint is not written yet."""
    steps = []

    def tell(report):
        steps.append(report.status.total_steps)
        if len(steps) == 3:
            assert [t.name[:18] for t in threading.enumerate()].count("longrec-checkpoint") == 1
            gate.set()

    run_of(
        model_of("hydrarec", 25),
        *(histories, tmp_path / "run"),
        **{"checkpoint_minutes": EVERY_STEP, "batch_tokens": 60, "max_epochs": 1, "show": tell},
    )
    assert len(steps) > 3
    assert "longrec-checkpoint" not in [t.name for t in threading.enumerate()]


@pytest.mark.parametrize("fails_at", [1, 3])
def test_a_full_disk_ends_the_training(tmp_path, histories, monkeypatch, fails_at):
    calls, real = [], checkpoint_writer.save_checkpoint

    def full(*args):
        calls.append(args)
        if len(calls) >= fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*args)

    monkeypatch.setattr(checkpoint_writer, "save_checkpoint", full)
    with pytest.raises(OSError, match="No space left"):
        run_of(model_of("hydrarec", 25), histories, tmp_path / "run", checkpoint_minutes=EVERY_STEP)
    assert len(calls) == fails_at
    assert (load_checkpoint(tmp_path / "run") is not None) == (fails_at > 1)


def test_another_error_is_told_before_that_of_the_writer(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint_writer, "save_checkpoint", full)
    writer = CheckpointWriter(tmp_path)

    def interrupted() -> None:
        with writer:
            writer.save({}, {}, {})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not writer.busy
