"""A run that several processes open is in memory once, and outlives its files, to the bit."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from contextlib import ExitStack, suppress

import numpy as np
import polars as pl
import pytest
import torch
from artifact.saving_jobs import small_recommender
from serving.small_streams import recommender

from longrec.artifact import folder
from longrec.artifact.artifact import Artifact
from longrec.artifact.folder import bytes_to_load
from longrec.config.training import TrainConfig
from longrec.core import shared
from longrec.core.errors import DataError
from longrec.core.shared import is_shared
from longrec.data.catalog import Catalog
from longrec.models import MODELS, build_model
from longrec.models.transitions import TransitionsScore
from longrec.retrieval.index_cache import open_index

pytestmark = pytest.mark.skipif(not shared.AVAILABLE, reason="no files in memory alone here")

CHILD = """
import gc, json, sys
from pathlib import Path

import psutil, torch

torch.set_num_threads(1)
from longrec.artifact import folder
from longrec.artifact.artifact import Artifact
from longrec.retrieval.index_cache import open_index

def own():
    gc.collect()
    return psutil.Process().memory_full_info().uss

folder = Path(sys.argv[1])
before, artifact, held = own(), None, 0
for line in sys.stdin:
    if line.strip() == "open":
        artifact = index = None
        artifact = Artifact.load(folder)
        index = open_index(artifact, "exact").index
        held = own() - before
    h = torch.randn(3, artifact.model.width, generator=torch.Generator().manual_seed(0))
    recent = torch.arange(1, 3 * artifact.scorer.reach + 1).view(3, -1)
    found = index.search(h, 10, None, recent)
    files = Path("/proc/self/maps").read_text().count("memfd:longrec")
    scores = found.scores.numpy().tobytes().hex()
    print(json.dumps([held, found.items.tolist(), scores, files]), flush=True)
"""
ITEMS, DIM = 80_000, 64
TABLE = (ITEMS + 1) * DIM * 4


def large(seed: int) -> Artifact:
    """A recommender whose table of items is by far the largest part, with transitions beside it."""
    torch.manual_seed(seed)
    config = MODELS["hydrarec"].config_class(dim=DIM)
    items = torch.randint(1, ITEMS + 1, (20_000,), dtype=torch.int32)
    return Artifact(
        "hydrarec",
        build_model("hydrarec", config, ITEMS).eval(),
        config,
        TrainConfig(),
        Catalog(pl.Series(np.arange(ITEMS)), np.ones(ITEMS, np.int64)),
        added=TransitionsScore.of(items, torch.full((200,), 100), ITEMS).eval(),
    )


def ask(child, line: str):
    """What a child holds for itself, what it finds, and how many files it shares."""
    child.stdin.write(f"{line}\n")
    child.stdin.flush()
    return json.loads(child.stdout.readline())


@pytest.mark.slow
def test_a_second_process_takes_none_of_what_the_first_one_holds(tmp_path):
    run, original = tmp_path / "run", large(1)
    original.save(run)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    with ExitStack() as stack:
        children = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", CHILD, str(run)],
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(2)
        ]
        first, second = (ask(child, "open") for child in children)
        assert second[0] < first[0] - TABLE, "what the first one, alone then, held for itself"
        assert first[1:] == second[1:]
        found = open_index(original, "exact").index.search(
            torch.randn(3, DIM, generator=torch.Generator().manual_seed(0)),
            10,
            None,
            torch.arange(1, 3 * original.scorer.reach + 1).view(3, -1),
        )
        assert found.items.tolist() == first[1]
        assert found.scores.numpy().tobytes().hex() == first[2], "to the bit as never saved"
        for path in run.iterdir():  # copied over by something else
            if path.is_file():
                path.write_bytes(b"")
        assert ask(children[0], "again")[1:] == ask(children[1], "again")[1:] == first[1:]
        large(2).save(run)
        changed = ask(children[1], "open")
        assert changed[1] != first[1]
        assert changed[3] == first[3], "what was held of the old one is let go of"
        children[0].kill()  # the maker of what the other one still had
        assert ask(children[1], "again")[1:] == changed[1:]
        for child in children:
            with suppress(OSError):
                child.stdin.close()


def test_loaded_twice_it_is_held_once_and_changed_apart(tmp_path):
    small_recommender(3).save(tmp_path / "run")
    needed = bytes_to_load(tmp_path / "run")
    one = Artifact.load(tmp_path / "run")
    assert is_shared(one.model.items)
    assert bytes_to_load(tmp_path / "run") < needed, "another one needs less memory"
    other = Artifact.load(tmp_path / "run")
    with torch.no_grad():
        one.model.items.add_(1)
    assert (one.model.items == 4).all()
    assert (other.model.items == 3).all()
    grown = other.with_items(["new"] if other.catalog.ids.dtype == pl.String else [10_000])
    grown.save(tmp_path / "run")
    again = Artifact.load(tmp_path / "run")
    assert len(again.model.items) == len(other.model.items) + 1
    assert (other.model.items == 3).all()


def test_a_file_that_changed_since_is_told_although_another_one_holds_its_tensors(tmp_path):
    small_recommender(3).save(tmp_path / "run")
    held = Artifact.load(tmp_path / "run")
    weights = tmp_path / "run" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(DataError, match="truncated"):
        Artifact.load(tmp_path / "run")
    assert is_shared(held.model.items)
    assert (held.model.items == 3).all()


def test_a_file_of_holes_is_not_looked_through_although_another_one_holds_its_tensors(tmp_path):
    small_recommender(3).save(tmp_path / "run")
    held = Artifact.load(tmp_path / "run")
    os.truncate(tmp_path / "run" / "model.safetensors", 1 << 43)
    with pytest.raises(DataError, match="of memory are free"):
        Artifact.load(tmp_path / "run")
    assert (held.model.items == 3).all()


def test_what_was_written_over_since_its_digest_was_taken_is_held_by_nobody(tmp_path):
    small_recommender(3).save(tmp_path / "run")
    weights, digest = tmp_path / "run" / "model.safetensors", "0" * 64
    with pytest.raises(DataError, match="written over while it was read"):
        folder._load_tensors(weights, digest, checked=True)
    assert not shared.is_held(folder.key_of_file(digest))


def test_a_run_is_let_go_of_with_its_recommender(tmp_path):
    small_recommender(5).save(tmp_path / "run")
    free = bytes_to_load(tmp_path / "run")
    held = Artifact.load(tmp_path / "run")
    vectors = held.item_vectors()
    del held
    gc.collect()
    assert bytes_to_load(tmp_path / "run") < free
    assert (vectors == 5).all()
    del vectors
    gc.collect()
    assert bytes_to_load(tmp_path / "run") == free


def test_of_counts_of_other_types_than_the_models_all_are_held_once(tmp_path):
    rec = recommender("item-knn")
    rec.save(tmp_path / "run")
    found = Artifact.load(tmp_path / "run").model.state_dict()
    assert {name for name, tensor in found.items() if not is_shared(tensor)} == set()
    for name, tensor in rec.model.state_dict().items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


def test_weights_of_another_type_become_the_models(tmp_path):
    rec = recommender("hydrarec")
    rec.model.items.data = rec.model.items.double()
    rec.save(tmp_path / "run")
    found = Artifact.load(tmp_path / "run").model
    assert {x.dtype for x in found.parameters()} == {torch.float32}
    assert torch.equal(found.items, rec.model.items.float())
    own = [name for name, x in found.named_parameters() if not is_shared(x)]
    assert own == ["items"], "the others are held once all the same"
