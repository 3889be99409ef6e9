"""What is replaced stays whole until the new stands whole: on a full disk, and killed anywhere."""

from __future__ import annotations

import resource
import signal
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
import torch
from artifact.saving_jobs import WRITERS, small_recommender
from forking import ForkServer
from models.added_scores import FollowersScore, register

from longrec.artifact.artifact import Artifact
from longrec.artifact.folder import EVALUATION, read_folder, tensors_of
from longrec.core import files
from longrec.core.errors import DataError, LongrecError
from longrec.data.histories import open_histories


@contextmanager
def full_disk(size: int):
    """No file can grow beyond a size: what a full disk does to who writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def number_of(kind, folder):
    """Which writing a folder holds, whole: all its parts agree."""
    if kind == "recommender":
        rec = Artifact.load(folder)
        number = rec.provenance["number"]
        assert torch.equal(rec.model.items, torch.full_like(rec.model.items, number))
        return number
    if kind == "evaluation":
        number, ranks = EVALUATION.read_whole(
            folder, lambda document, files: (document["number"], files["ranks.parquet"].read_text())
        )
        assert ranks == str(number)
        return number
    histories = open_histories(folder)
    histories.verify()
    return int(histories.items[0])


@pytest.fixture(scope="module")
def server():
    with ForkServer("artifact.saving_jobs") as server:
        yield server


@pytest.mark.parametrize("kind", WRITERS)
def test_a_kill_at_any_instant_leaves_the_old_or_the_new_one(kind, server, tmp_path):
    folder = tmp_path / "run"
    WRITERS[kind](folder, 1)
    if kind != "histories":
        (folder / "notes.txt").write_text("kept")
    old, seen = 1, set()
    for instant in count():
        new = old % 8 + 1
        with server.job("write_until", kind, str(folder), new, instant) as job:
            lines = job.lines()
        found = number_of(kind, folder)
        assert found in (old, new), f"killed at instant {instant}"
        seen.add(found == new)
        old = found
        if lines:
            assert lines == ["written"]
            assert found == new
            break
    assert seen == {False, True}
    assert instant > 3
    if kind != "histories":
        assert (folder / "notes.txt").read_text() == "kept"
        hidden = [path.name for path in folder.iterdir() if path.name.startswith(".")]
        assert not hidden, "the next writer tidies up"


@pytest.mark.parametrize("size", [0, 100, 2000, 4500])
def test_a_full_disk_leaves_the_old_recommender(size, tmp_path):
    folder = tmp_path / "run"
    small_recommender(1).save(folder)
    (folder / "metrics.json").write_text("{}")
    with full_disk(size), pytest.raises(LongrecError, match="not saved"):
        small_recommender(2).save(folder)
    assert number_of("recommender", folder) == 1
    assert (folder / "metrics.json").exists()
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]
    small_recommender(2).save(folder)
    assert number_of("recommender", folder) == 2


def test_readers_find_files_that_have_not_moved_yet(tmp_path, monkeypatch):
    """Whoever reads between the instant of a switch and its end finds the new ones."""
    folder = tmp_path / "run"
    small_recommender(1).save(folder)
    seen = []
    settle = "longrec.core.sealed.settle"
    monkeypatch.setattr(settle, lambda *_: seen.append(number_of("recommender", folder)))
    small_recommender(2).save(folder)
    assert seen == [1, 2]
    monkeypatch.setattr(settle, lambda *_: small_recommender(3).save(folder))
    with pytest.raises(LongrecError, match="another writer is writing to it"):
        small_recommender(4).save(folder)


def test_a_reader_begins_again_when_the_recommender_is_replaced(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    small_recommender(1).save(folder)
    load, loads = files.digest_of_file, []

    def replaced_meanwhile(path):
        if not loads:
            loads.append(path)
            small_recommender(2).save(folder)
        return load(path)

    monkeypatch.setattr("longrec.core.staged.digest_of_file", replaced_meanwhile)
    assert number_of("recommender", folder) == 2


def test_systems_that_cannot_exchange_folders_replace_them_in_two_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_exchange", lambda *_: False)
    for number in (1, 2):
        WRITERS["histories"](tmp_path / "histories", number)
        assert number_of("histories", tmp_path / "histories") == number
    assert [path.name for path in tmp_path.iterdir()] == ["histories"]


def test_an_added_score_goes_with_its_recommender(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    register(monkeypatch)
    one = small_recommender(1)
    one.added = FollowersScore.of([[1, 2, 3]], one.model.n_items)
    one.save(folder)
    with_score = one.saved_tensors
    assert Artifact.load(folder).saved_tensors == with_score == tensors_of(folder)
    assert (folder / "added_score.safetensors").is_file()
    one.added = None
    one.save(folder)
    assert not (folder / "added_score.safetensors").exists()
    assert one.saved_tensors == tensors_of(folder) != with_score


def test_an_evaluation_of_other_weights_is_not_taken(tmp_path):
    folder = tmp_path / "run"
    saved = small_recommender(1)
    saved.save(folder)
    assert saved.saved_tensors == tensors_of(folder) == Artifact.load(folder).saved_tensors
    WRITERS["evaluation"](folder, 1)
    saved.save(folder)
    assert not (folder / "metrics.json").exists(), "it is of weights that nobody has"
    (folder / "ranks.parquet").write_text("other ranks")
    with pytest.raises(DataError, match="is not an evaluated recommender"):
        EVALUATION.read(folder)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="this system does not tell")
def test_what_is_loaded_does_not_depend_on_its_files_any_more(tmp_path):
    """A file that is copied over is cut short first: who has it mapped then is ended by that."""
    small_recommender(1).save(tmp_path / "run")
    saved = read_folder(tmp_path / "run")
    assert str(tmp_path / "run") not in Path("/proc/self/maps").read_text()
    assert saved.weights
