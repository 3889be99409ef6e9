"""Training for service from the command line, killed and gone on with."""

from __future__ import annotations

import json
import random
import shlex
import signal
import subprocess
import time
from dataclasses import replace

import pytest
import torch
from cli.running import TINY, longrec, make_run
from forking import kills, run_command
from safetensors.torch import load_file

from longrec.recommender import load
from longrec.runs.train import train

QUICK = [*TINY, "--set=max_epochs=2", "--set=batch_tokens=100"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("final"))


@pytest.fixture(scope="module")
def final(made):
    """A run that was trained with --final."""
    out = made.run.parent / "for service"
    assert longrec("train", made.histories, "--out", out, "--final", *QUICK) == 0
    return out


def told(capsys):
    found = capsys.readouterr()
    return " ".join(found.out.split()), " ".join(found.err.split())


def commands(text):
    """The commands that lines of standard error tell people to give."""
    lines = [line.partition(": longrec ") for line in text.splitlines()]
    return {name: shlex.split(command) for name, _, command in lines if command}


def test_refit_says_what_it_made_and_what_that_is_not(capsys, made, tmp_path):
    out = tmp_path / "final"
    assert longrec("refit", made.run, "--out", out) == 0
    found = capsys.readouterr()
    text = " ".join(found.out.split())
    assert "all 600 events, and so validated on none" in text
    assert "not to be evaluated on these events: it saw them all" in text
    assert f"those of the run that was measured, {made.run}." in text
    assert text.count("(baseline)") == 3
    assert "seen items: " in found.err
    assert "elastic, all events epoch 1 of 1 loss" in " ".join(found.err.split())
    assert "NDCG" not in found.err.partition("seen items: ")[0], "nothing is validated"
    assert longrec("evaluate", out) == 2
    assert str(made.run) in told(capsys)[1]
    [*_, (_, serve)] = commands(found.err).items()
    assert serve == ["serve", str(out), "--store", f"{out}-users", "--data", str(made.histories)]
    assert longrec("recommend", out, "--user", "100", "-k", "2") == 0


def test_a_training_says_how_its_run_is_refitted(capsys, made, tmp_path):
    out = tmp_path / "a run"
    assert longrec("train", made.histories, "--model", "popularity", "--out", out) == 0
    told = capsys.readouterr()
    assert "popularity (baseline)" not in told.out, "its own number is there"
    assert "transitions (baseline)" in told.out
    found = commands(told.err)
    assert longrec(*found["to serve, train on all events"]) == 0
    assert load(f"{out}-final").provenance["refit"]["run"] == str(out.resolve())


def test_train_final_makes_both_runs(capsys, made, tmp_path):
    out = tmp_path / "final"
    argv = ["train", made.histories, "--out", out, "--final", "--json", *QUICK]
    assert longrec(*argv) == 0
    found = capsys.readouterr()
    document = json.loads(found.out)
    assert document["stop"] == "refit"
    assert document["refit"]["run"] == str((out / "measured").resolve())
    assert document["policy"] == load(out).provenance["policy"]
    beside = document["refit"]["baselines"]
    assert set(beside) == {"popularity", "last-item", "transitions"}
    for name, numbers in beside.items():  # on the same targets, by the same measure
        counted = train(made.histories, name)
        assert counted.provenance["training"]["validation"] == numbers
    assert longrec("evaluate", out / "measured") == 0
    assert longrec(*argv) == 2
    assert "holds a trained recommender" in told(capsys)[1]


@pytest.mark.slow
def test_an_interrupted_refit_says_how_to_go_on_and_does(made, tmp_path):
    slow = load(made.run)
    slow.provenance["training"]["best_epoch"] = 10**6
    slow.train_config = replace(slow.train_config, checkpoint_minutes=1e-5)
    slow.save(tmp_path / "run")
    out = tmp_path / "my final"
    process = run_command(
        "refit", tmp_path / "run", "--out", out, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: list(out.glob("checkpoint-*")))
    process.send_signal(signal.SIGINT)
    last = process.communicate(timeout=60)[1].strip().splitlines()[-1]
    assert process.returncode == 1
    assert last.startswith("error: interrupted; go on with: longrec refit ")
    # The refit wants a million epochs; run and plan are shortened so that the rest is seconds.
    slow.provenance["training"]["best_epoch"] = 1
    slow.save(tmp_path / "run")
    plan = json.loads((out / "training.json").read_text())
    plan["settings"]["max_epochs"] = 1
    (out / "training.json").write_text(json.dumps(plan))
    assert longrec(*shlex.split(last.partition(": longrec ")[2])) == 0
    assert load(out).provenance["training"]["epochs"] == 1


def wait_for(ready):
    deadline = time.monotonic() + 60
    while not ready() and time.monotonic() < deadline:
        time.sleep(0.02)


def weights(run):
    return load_file(run / "model.safetensors")


@pytest.mark.slow
def test_train_final_is_killed_anywhere_and_ends_the_same(made, final, tmp_path):
    """kill -9 at random instants, in both halves and between; --resume alone goes on each time."""
    drawn, halves = random.Random(16), set()

    def begin(name):
        argv = ["train", made.histories, "--out", tmp_path / name, "--final", *QUICK]
        often = "--set=checkpoint_minutes=0.00001"
        process = run_command(*argv, often, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for((tmp_path / name / "training.json").exists)
        return process

    begin("first").wait(120)  # what all later ones fork from is there now
    timed, begun = begin("timed"), time.monotonic()
    wait_for((tmp_path / "timed" / "measured" / "config.json").exists)
    between = time.monotonic()
    timed.wait(120)
    seconds = between - begun, time.monotonic() - between
    for number in range(kills(of_20=8)):
        out = tmp_path / f"run{number}"
        process, second = begin(out.name), number % 2
        if second:
            wait_for((out / "measured" / "config.json").exists)
        time.sleep(drawn.uniform(0, seconds[second]))
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        if (out / "config.json").exists():
            continue
        halves.add((out / "measured" / "config.json").exists())
        assert longrec("train", made.histories, "--out", out, "--resume") == 0
        for run in (out, out / "measured"):
            ours, theirs = weights(run), weights(final / run.relative_to(out))
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[name], theirs[name]) for name in ours), (number, run)
    assert halves == {False, True}
