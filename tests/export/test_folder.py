"""An export's folder: whole or not there, and told when damaged."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from export.small_exports import away, histories, read_in_parts, small
from models.small_models import N
from serving.small_streams import FIRST

from longrec.cli.serve import export as command
from longrec.core.errors import LongrecError, UsageError
from longrec.export import folder as module
from longrec.export import parity
from longrec.export.folder import EXPORT, export
from longrec.export.graphs import Graph
from longrec.models.common.added_score import PopularityScore
from longrec.recommender import load
from longrec.retrieval.approximate import RESCORED
from longrec.retrieval.index_cache import open_index

pytestmark = pytest.mark.slow  # one real export takes a tenth of the fast suite


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A saved recommender."""
    return small("hydrarec").save(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def kept(run, tmp_path_factory) -> Path:
    """An export of it, which takes long, and which no test changes."""
    folder = tmp_path_factory.mktemp("export") / "out"
    export(load(run), folder)
    return folder


@pytest.fixture
def exported(kept, tmp_path) -> Path:
    """A copy of that export."""
    folder = tmp_path / "out"
    folder.mkdir()
    for file in kept.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.fixture
def quick(kept, monkeypatch) -> None:
    """Graphs that were written once are copied: what is tested is the folder."""
    graphs = EXPORT.read(kept)["graphs"]

    def write(graph: Graph, folder: Path) -> dict[str, Any]:
        (folder / f"{graph.name}.onnx").write_bytes((kept / f"{graph.name}.onnx").read_bytes())
        return graphs[graph.name]

    monkeypatch.setattr(module, "write_graph", write)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_it_gives_what_the_model_gives(kept, run):
    items, times = histories(3, 40)
    h = read_in_parts(kept, EXPORT.read(kept), items, times, [1, 20, 21])
    assert away(load(run), items, times, h) < parity.TOLERANCE


def test_items_and_vectors_stand_by_index(kept, run):
    recommender = load(run)
    items = pq.read_table(kept / "items.parquet")
    assert items["index"].to_pylist() == list(range(1, N + 1))
    assert items["id"].to_pylist() == list(range(FIRST, FIRST + N))
    assert items["count"].to_pylist() == recommender.catalog.counts.tolist()
    vectors = np.load(kept / "item_vectors.npy", allow_pickle=False)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, recommender.item_vectors().numpy())


def test_the_bias_of_an_added_score_goes_along(quick, run, tmp_path):
    plain = load(run)
    rec = plain.with_added_score(PopularityScore.of(plain.catalog.counts, weight=3.0))
    manifest = export(rec, tmp_path / "out")
    assert manifest["scoring"]["bias"] == "item_bias.npy" in manifest["digests"]
    bias = np.load(tmp_path / "out" / "item_bias.npy")
    np.testing.assert_array_equal(bias, rec.scorer.bias().numpy())
    h = np.ones((2, plain.model.width), np.float32)
    wanted = rec.scorer.score(torch.from_numpy(h))[:, 1:].detach()
    found = parity.Runtime(tmp_path / "out").scores(h)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    (tmp_path / "out" / "item_bias.npy").unlink()
    with pytest.raises(LongrecError, match="does not give what the model gives"):
        parity.check_parity(rec.scorer, tmp_path / "out", None)


def test_an_earlier_export_is_replaced_and_nothing_else(quick, run, exported):
    (exported / "step.onnx").write_bytes(b"")
    (exported / "left.onnx").write_bytes(b"of another model")
    with pytest.raises(UsageError, match="--overwrite"):
        export(load(run), exported)
    manifest = export(load(run), exported, overwrite=True)
    assert EXPORT.read(exported) == json.loads(json.dumps(manifest))
    assert {"manifest.json", *manifest["digests"]} == {file.name for file in exported.iterdir()}
    assert [path.name for path in exported.parent.iterdir()] == ["out"]


def test_other_folders_and_files_are_left_alone(run, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "manifest.json").write_text('{"name": "a web page"}')
    (tmp_path / "file").write_text("mine")
    for name in ("mine", "file"):
        with pytest.raises(UsageError, match="is not an export: it is left alone"):
            export(load(run), tmp_path / name)
    assert contents(tmp_path / "mine") == {"manifest.json": b'{"name": "a web page"}'}
    assert (tmp_path / "file").read_text() == "mine"


def test_without_parity_nothing_is_left(quick, run, exported, monkeypatch):
    monkeypatch.setattr(parity, "TOLERANCE", -1.0)
    before = contents(exported)
    with pytest.raises(LongrecError, match="Nothing was exported"):
        export(load(run), exported, overwrite=True)
    assert contents(exported) == before
    with pytest.raises(LongrecError, match="Nothing was exported"):
        export(load(run), exported.parent / "new")
    assert [path.name for path in exported.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named(run, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=rf"{package}: pip install 'longrec\[export\]'"):
        export(load(run), tmp_path / "out")


def test_an_older_pytorch_is_named(run, tmp_path, monkeypatch):
    monkeypatch.setattr("longrec.export.folder.TORCH", (99, 0))
    with pytest.raises(
        UsageError, match=rf"PyTorch 99\.0 or newer, and this is {torch.__version__[:4]}"
    ):
        export(load(run), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_index_of_the_run_goes_along(quick, tmp_path):
    import faiss

    small("hydrarec").save(tmp_path / "run")
    recommender = load(tmp_path / "run")
    index = open_index(recommender, "approximate").index
    manifest = export(recommender, tmp_path / "out")
    assert manifest["index"] == {
        "file": "index.faiss",
        "name": index.name,
        "nprobe": index.probes,
        "bias_is_last": False,
        "rescored_per_item": RESCORED,
        "recall@10": index.recall,
    }
    cells = faiss.read_index(str(tmp_path / "out" / "index.faiss"))
    vectors = np.load(tmp_path / "out" / "item_vectors.npy")
    cells.nprobe = cells.nlist
    _, [found] = cells.search(vectors[5:6], 5 * RESCORED)
    scores = vectors @ vectors[5]
    assert set(np.argsort(-scores[1:])[:5] + 1) <= set(found.tolist())
    assert "index.faiss" in EXPORT.read(tmp_path / "out")["digests"]


def test_the_command_for_programs(quick, run, tmp_path, capsys):
    command(run, tmp_path / "out", json=True)
    printed = json.loads(capsys.readouterr().out)
    assert printed == {"path": str(tmp_path / "out")} | EXPORT.read(tmp_path / "out")
    assert printed["parity"]["of_spread"] <= parity.TOLERANCE


def test_the_command_for_people(quick, run, tmp_path, capsys):
    command(run, tmp_path / "out")
    shown = capsys.readouterr().out
    assert "step.onnx" in shown
    assert "of their standard deviation" in shown
