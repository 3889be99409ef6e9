"""A run killed at any moment and resumed ends with the numbers of one that was not."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from pathlib import Path

import pytest
import torch
import training_child
from forking import Forked, kills, run_code
from safetensors.torch import load_file

from longrec.config.training import TrainConfig
from longrec.core.errors import DataError
from longrec.mixers.product_keys import SPARSE_ROWS
from longrec.training import checkpoint
from longrec.training.checkpoint import drop_checkpoints, load_checkpoint, save_checkpoint
from longrec.training.objective import reads_few_items

TRAIN = "from training.training_child import main; main()"
EVERY_STEP = 1e-9  # minutes


def settings_of(name: str, model: dict | None = None, **training) -> dict:
    model = {"dim": 8, "layers": 2, "ffn_dim": 16} | (model or {})
    defaults = {
        "max_epochs": 3,
        "batch_tokens": 200,
        "window": 16,  # many histories are longer: states are carried through checkpoints
        "checkpoint_minutes": EVERY_STEP,
        "warmup_steps": 20,
        "learning_rate": 1e-2,
    }
    return {"model": name, "model_settings": model, "training": defaults | training}


def seldom(settings: dict) -> dict:
    """The same run with few checkpoints, for where none is needed."""
    return settings | {"training": settings["training"] | {"checkpoint_minutes": 60.0}}


def outcome(run: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """Final weights, and all numbers of the result and the log but the seconds."""
    result = json.loads((run / "final.json").read_text())
    log = [line.split(",") for line in (run / "log.csv").read_text().splitlines()]
    assert len(log) == 1 + len(result["rows"])
    for row in [result, *result["rows"]]:
        row.pop("seconds")
    del log[0][2]
    for line in log[1:]:
        del line[2]
    return load_file(run / "final.safetensors"), {"result": result, "log": log}


def same_outcome(run: Path, other: Path) -> None:
    (weights, numbers), (wanted, wanted_numbers) = outcome(run), outcome(other)
    assert numbers == wanted_numbers
    assert weights.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(weights[name], tensor), f"{name} differs"


@pytest.fixture
def histories(make_histories, ring):
    rows = ring(16, 25, 2, 40)
    times = [[n * n * 100 for n in range(len(row))] for row in rows]
    return make_histories(rows, times, n_items=25)


class Killed(BaseException):
    """Stands for a kill within this process."""


@pytest.mark.parametrize(
    ("name", "model", "training"),
    [
        ("elastic", {}, {"workers": 2, "loss": "sampled", "negatives": 20}),
        ("hydrarec", {}, {"precision": "bfloat16", "average": 0.0}),
        ("sasrec", {}, {"validate_every": 2, "patience": 1, "max_epochs": 5}),
        ("sasrec-rotary", {}, {"context": 25}),
        ("bert4rec", {}, {"workers": 2, "context": 25}),
        (
            "hydrarec-bidirectional",
            {"targets": "last"},
            {"loss": "gbce", "negatives": 10, "prefixes": 2},
        ),
        ("elastic-paper", {"memory_slots": SPARSE_ROWS}, {"mask_share": 0.3}),
        ("elastic", {"memory_slots": 64, "memory_topk": 4}, {"loss": "bce", "negatives": 5}),
    ],
)
def test_stopping_at_any_step_changes_nothing(tmp_path, histories, name, model, training):
    stop_and_go_on(tmp_path, histories, settings_of(name, model, **training))


@pytest.mark.parametrize(
    ("name", "training"),
    [
        ("elastic", {"loss": "sampled"}),
        ("bert4rec", {"loss": "gbce", "context": 25}),
    ],
)
def test_stopping_changes_nothing_where_items_are_updated_by_rows(
    tmp_path, make_histories, ring, name, training
):
    """What rows are owed, and the weights kept as best, are part of what is written."""
    settings = settings_of(name, negatives=20, weight_decay=0.1, **training)
    many = make_histories(ring(16, 25, 2, 40), n_items=3000)
    assert reads_few_items(TrainConfig(**settings["training"]), many.n_items)
    stop_and_go_on(tmp_path, many, settings)


def stop_and_go_on(tmp_path: Path, histories, settings: dict) -> None:
    """A run that is stopped at some steps ends as one that is not."""
    for folder in ("whole", "parts"):
        (tmp_path / folder).mkdir()
    steps = []
    training_child.train(
        histories.path,
        tmp_path / "whole",
        seldom(settings),
        lambda report: steps.append(report.status.total_steps),
    )
    last = steps[-1]
    assert last >= 9
    for stop in (1, last // 3, last - 1):

        def tell(report, stop=stop):
            if report.status.total_steps >= stop and report.validating is None:
                raise Killed

        with pytest.raises(Killed):
            training_child.train(histories.path, tmp_path / "parts", settings, tell)
    training_child.train(histories.path, tmp_path / "parts", seldom(settings))
    same_outcome(tmp_path / "parts", tmp_path / "whole")


def test_a_first_validation_is_done_once(tmp_path, histories):
    settings = settings_of("hydrarec", max_epochs=1) | {"validate_first": True}
    for folder in ("whole", "parts"):
        (tmp_path / folder).mkdir()
    training_child.train(histories.path, tmp_path / "whole", seldom(settings))

    def tell(report):
        if report.status.rows and report.status.total_steps:
            raise Killed

    with pytest.raises(Killed):
        training_child.train(histories.path, tmp_path / "parts", seldom(settings), tell)
    training_child.train(histories.path, tmp_path / "parts", seldom(settings))
    same_outcome(tmp_path / "parts", tmp_path / "whole")
    lines = (tmp_path / "parts" / "log.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["epoch", "0", "1"]


def start(histories, run: Path, settings: dict) -> Forked:
    arguments = (histories.path, run, json.dumps(settings))
    return run_code(TRAIN, *arguments, stdout=subprocess.PIPE)


def kill_after(child: Forked, lines: int) -> bool:
    """SIGKILL a run after it has told of so many steps; whether it was still alive."""
    assert child.stdout is not None
    for _ in range(lines):
        if not child.stdout.readline():
            break
    alive = child.poll() is None
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    return alive


def kill_and_resume(tmp_path: Path, histories, name: str, many: int, seed: int) -> None:
    # Long enough for all kills: an epoch tells of some ten steps, a killed process of at most 19.
    settings = settings_of(name, max_epochs=4 * many, patience=4 * many, workers=seed)
    for folder in ("whole", "killed"):
        (tmp_path / folder).mkdir()
    training_child.train(histories.path, tmp_path / "whole", seldom(settings))
    draw = random.Random(seed)
    killed = 0
    for _ in range(many):
        killed += kill_after(start(histories, tmp_path / "killed", settings), draw.randrange(5, 20))
    assert killed == many
    assert load_checkpoint(tmp_path / "killed") is not None
    training_child.train(histories.path, tmp_path / "killed", seldom(settings))
    same_outcome(tmp_path / "killed", tmp_path / "whole")
    assert [p.name for p in (tmp_path / "killed").glob(".checkpoint*")] == []


@pytest.mark.kills
def test_a_killed_process_resumes_to_the_same_numbers(tmp_path, histories):
    kill_and_resume(tmp_path, histories, "elastic", kills(2), seed=2)


@pytest.mark.slow
@pytest.mark.kills
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["elastic", "hydrarec", "sasrec"])
def test_many_kills_at_random_moments(tmp_path, histories, name, seed):
    kill_and_resume(tmp_path, histories, name, kills(2), seed=seed)


def tensors_of(number: float) -> dict[str, torch.Tensor]:
    return {"a": torch.full((3,), number), "b": torch.full((2, 2), number)}


@pytest.mark.parametrize("best", [tensors_of(7), None])
def test_a_kill_within_saving_leaves_the_old_checkpoint_or_the_new(tmp_path, monkeypatch, best):
    """Kill at each operation on files in turn, also half-way through removing a folder."""
    originals = {
        "replace": os.replace,
        "rmtree": checkpoint.shutil.rmtree,
        "save_file": checkpoint.save_file,
        "link": os.link,
        "sync": checkpoint.sync,
    }
    left = 0

    def dying(name):
        def call(*args, **kwargs):
            nonlocal left
            left -= 1
            if left < 0:
                if name == "rmtree":
                    (next(iter(Path(args[0]).iterdir()))).unlink()
                if name == "save_file":
                    Path(args[1]).write_bytes(b"half")
                raise Killed
            return originals[name](*args, **kwargs)

        return call

    old, new = {"place": 1}, {"place": 2}
    moments = 0
    for moment in range(100):
        run = tmp_path / f"run{moment}"
        run.mkdir()
        save_checkpoint(run, tensors_of(1), tensors_of(7), old)
        left = moment
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint.os, "replace", dying("replace"))
            patch.setattr(checkpoint.shutil, "rmtree", dying("rmtree"))
            patch.setattr(checkpoint, "save_file", dying("save_file"))
            patch.setattr(checkpoint, "sync", dying("sync"))
            patch.setattr(checkpoint.os, "link", dying("link"))
            try:
                save_checkpoint(run, tensors_of(2), best, new)
                finished = True
            except Killed:
                finished = False
        found = load_checkpoint(run)
        assert found is not None
        tensors, kept, state = found
        assert state in (old, new)
        assert torch.equal(kept["a"], tensors_of(7)["a"])
        assert torch.equal(tensors["a"], tensors_of(state["place"])["a"])
        save_checkpoint(run, tensors_of(3), best, {"place": 3})  # and the next one goes through
        assert load_checkpoint(run)[2] == {"place": 3}
        assert len(list(run.iterdir())) == 1
        if finished:
            assert state == new
            break
        moments += 1
    assert moments >= 7


def test_no_checkpoint(tmp_path):
    assert load_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, tensors_of(1), tensors_of(2), {})
    drop_checkpoints(tmp_path)
    assert load_checkpoint(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_an_older_longrec_says_so(tmp_path):
    save_checkpoint(tmp_path, tensors_of(1), tensors_of(2), {})
    document = tmp_path / "checkpoint-000000001" / "state.json"
    document.write_text(json.dumps(json.loads(document.read_text()) | {"format": 1}))
    with pytest.raises(DataError, match=r"format 1, this longrec reads 2.*train again without"):
        load_checkpoint(tmp_path)


def test_a_checkpoint_of_another_model_says_so(tmp_path, histories):
    settings = settings_of("elastic", max_epochs=1)
    training_child.train(histories.path, tmp_path, settings)
    settings["model_settings"] = {"dim": 16}
    with pytest.raises(DataError, match="belongs to another model"):
        training_child.train(histories.path, tmp_path, settings)


def test_an_interrupt_saves_nothing_half_done(tmp_path, histories, monkeypatch):
    """Ctrl-C between an update and its count must not be saved as if it had not happened."""
    settings = settings_of("hydrarec")
    for folder in ("whole", "parts"):
        (tmp_path / folder).mkdir()
    training_child.train(histories.path, tmp_path / "whole", seldom(settings))
    original, calls = torch._foreach_lerp_, 0

    def interrupted(*args):
        nonlocal calls
        calls += 1
        if calls == 12:
            raise KeyboardInterrupt
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "_foreach_lerp_", interrupted)
        with pytest.raises(KeyboardInterrupt):
            training_child.train(histories.path, tmp_path / "parts", settings)
    training_child.train(histories.path, tmp_path / "parts", seldom(settings))
    same_outcome(tmp_path / "parts", tmp_path / "whole")
