"""What commands write arrives whole, or the exit status says that it did not."""

from __future__ import annotations

import fcntl
import os
import resource
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cli.running import TINY, Made, longrec, make_run
from forking import run_command

PIPE = 4096
"""Bytes that the smallest pipe holds."""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    return make_run(tmp_path_factory.mktemp("outputs"))


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A disk on which no file of this process grows beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def reluctant_pipe() -> tuple[int, int]:
    """A small pipe whose writer gets "try again" where it is full, as Node.js makes them."""
    ours, theirs = os.pipe()
    fcntl.fcntl(theirs, fcntl.F_SETFL, fcntl.fcntl(theirs, fcntl.F_GETFL) | os.O_NONBLOCK)
    fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, PIPE)
    return ours, theirs


def read_all(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


@pytest.mark.parametrize(
    ("call", "unbuffered"),
    [
        ("recommend {} --all -k 20 --format csv", ""),  # bytes
        ("recommend {} --all", "1"),  # text
        ("train --help", ""),
    ],
)
def test_a_pipe_that_does_not_wait_gets_everything(made, call, unbuffered):
    argv = call.format(made.run).split()
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    whole = run_command(*argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env)
    expected = whole.stdout.read()
    assert (whole.wait(60), len(expected) > PIPE or "--help" in call) == (0, True)
    ours, theirs = reluctant_pipe()
    process = run_command(*argv, stdout=theirs, stderr=subprocess.DEVNULL, env=env)
    os.close(theirs)
    threading.Event().wait(0.3)  # by now it wants to write more than the pipe holds
    assert read_all(ours).decode() == (expected if isinstance(expected, str) else expected.decode())
    assert process.wait(60) == 0


@pytest.mark.parametrize("call", ["recommend {} --all --format csv", "models --json", "--version"])
def test_a_full_disk_under_standard_output_is_told(made, call):
    with open("/dev/full", "w") as full:
        process = run_command(
            *call.format(made.run).split(), stdout=full, stderr=subprocess.PIPE, text=True
        )
        told = process.stderr.read().splitlines()
    assert process.wait(60) == 1
    assert told[-1] == "error: standard output could not be written: No space left on device"


def test_notes_that_cannot_be_written_stop_no_work(made, tmp_path):
    with open("/dev/full", "w") as full:
        process = run_command(
            *("train", made.histories, "--model", "popularity", "--out", tmp_path / "run"),
            stdout=subprocess.DEVNULL,
            stderr=full,
        )
    assert process.wait(60) == 0
    assert (tmp_path / "run" / "config.json").is_file()


# ---- a full disk


@pytest.mark.parametrize(("size", "kept"), [(0, False), (4000, True), (9000, True)])
def test_a_training_that_fills_the_disk_says_how_it_goes_on_and_does(
    made, tmp_path, capsys, size, kept
):
    run, settings = tmp_path / "run", ["--model", "elastic", *TINY, "--epochs", "1", "--quiet"]
    with files_of_at_most(size):
        assert longrec("train", made.histories, "--out", run, *settings) == 1
    [told] = capsys.readouterr().err.splitlines()
    assert "File too large" in told
    again = f"longrec train {made.histories} --out {run} --resume"
    assert told.endswith(again if kept else "free space, then give the same command again")
    assert not list(run.rglob(".*")), "nothing is left half-written"
    assert (
        longrec(
            *(again.split()[1:] if kept else ["train", made.histories, "--out", run, *settings])
        )
        == 0
    )
    weights = (run / "model.safetensors").read_bytes()
    assert weights == (made.run / "model.safetensors").read_bytes()


def test_whatever_else_fills_the_disk_is_told_in_a_line_and_leaves_nothing(made, tmp_path, capsys):
    calls = [
        ("prepare", made.log, "--out", tmp_path / "h"),
        ("evaluate", made.run, "--no-baselines"),
        ("recommend", made.run, "--all", "--out", tmp_path / "x.csv"),
        ("recommend", made.run, "--all", "--out", tmp_path / "x.parquet"),
        ("export", made.run, "--out", tmp_path / "e"),
        ("compare", made.histories, "--models=popularity", "--budget=1", "--out", tmp_path / "c"),
        ("train", made.histories, "--model", "popularity", "--out", tmp_path / "r"),
    ]  # fmt: skip
    before = files_of(made.run)
    for call in calls:
        capsys.readouterr()
        with files_of_at_most(10):
            assert longrec(*call, "--quiet") == 1, call
        told = capsys.readouterr().err
        assert told.count("error:") == 1, told
        assert "Traceback" not in told, call
        assert "File too large" in told.splitlines()[-1], call
        assert files_of(made.run) == before, call
        assert not files_of(tmp_path), call


def files_of(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}
