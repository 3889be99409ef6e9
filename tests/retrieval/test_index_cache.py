"""Indexes kept in a recommender's folder: chosen by size, measured, read again, never believed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.numpy import load as load_arrays
from serving.small_streams import recommender
from small_histories import MakeHistories
from typer.testing import CliRunner

from longrec.cli.app import app
from longrec.core.errors import DataError, UsageError
from longrec.core.shared import AVAILABLE
from longrec.recommender import Recommender, load
from longrec.retrieval import index_cache as stored
from longrec.retrieval.approximate import CellIndex
from longrec.retrieval.cells import arrays_of, cells_of, lists_of
from longrec.retrieval.exact import ExactIndex
from longrec.retrieval.index_cache import FILE, SAVED_INDEX, open_index


def saved(path: Path, case: str = "elastic") -> Recommender:
    return load(recommender(case).save(path / "run"))


def test_the_size_of_the_catalog_chooses(tmp_path: Path, monkeypatch):
    rec = saved(tmp_path)
    assert isinstance(open_index(rec).index, ExactIndex)
    monkeypatch.setattr(stored, "APPROXIMATE_FROM", 1)
    assert isinstance(open_index(rec).index, ExactIndex)  # it has no scan, as on an older processor
    monkeypatch.setattr(stored, "WITHOUT_SCAN", rec.catalog.n_items)
    assert isinstance(open_index(rec).index, CellIndex)
    monkeypatch.setattr(stored, "APPROXIMATE_FROM", 10**6)
    monkeypatch.setattr(ExactIndex, "in_8_bits", True)
    assert isinstance(open_index(rec).index, ExactIndex)
    assert isinstance(open_index(rec, "exact").index, ExactIndex)
    assert isinstance(open_index(recommender("popularity")).index, ExactIndex)
    with pytest.raises(UsageError, match="popularity"):
        open_index(recommender("popularity"), "approximate")
    with pytest.raises(UsageError, match="'fast'; choose 'auto', 'exact' or 'approximate'"):
        open_index(rec, "fast")


def test_it_is_kept_and_read_again(tmp_path: Path):
    rec = saved(tmp_path)
    told: list[str] = []
    new = open_index(rec, "approximate", lambda done, total, words: told.append(words))
    again = open_index(load(tmp_path / "run"), "approximate")
    assert (new.facts["new"], again.facts["new"]) == (True, False)
    assert told == ["making cells", "filling cells", "measuring recall"]
    assert {k: v for k, v in new.facts.items() if k != "new"} == {
        k: v for k, v in again.facts.items() if k != "new"
    }
    assert again.index.recall == new.index.recall >= 0.9
    assert again.facts["bytes"] == (tmp_path / "run" / FILE).stat().st_size
    h = torch.randn(5, rec.model_config.dim)
    assert torch.equal(new.index.search(h, 5).items, again.index.search(h, 5).items)


@pytest.mark.skipif(not AVAILABLE, reason="no files in memory alone here")
def test_cells_that_processes_hold_once_are_searched_to_the_bit(tmp_path: Path):
    import faiss

    rec = saved(tmp_path)
    held = [open_index(load(tmp_path / "run"), "approximate").index for _ in range(2)]
    for index in held:
        assert isinstance(index, CellIndex)
        lists = faiss.downcast_InvertedLists(index.cells.invlists)
        assert isinstance(lists, faiss.OnDiskInvertedLists)
    width = held[0].cells.d
    own = cells_of(lists_of(arrays_of(held[0].cells), rec.catalog.n_items, width), width)
    alone = CellIndex(rec.scorer, own, held[0].probes, held[0].recall)
    h = torch.randn(9, rec.model_config.dim)
    expected = alone.search(h, 5)
    for index in held:
        found = index.search(h, 5)
        assert torch.equal(found.items, expected.items)
        assert torch.equal(found.scores, expected.scores)


def test_one_that_is_edited_or_of_other_vectors_is_built_anew(tmp_path: Path):
    rec = saved(tmp_path)
    open_index(rec, "approximate")
    file, about = tmp_path / "run" / FILE, tmp_path / "run" / SAVED_INDEX.document
    good, words = file.read_bytes(), about.read_text()

    def spoilt() -> bool:
        return open_index(load(tmp_path / "run"), "approximate").facts["new"]

    assert not spoilt()
    for wrong in ({"looked_into": 0}, {"looked_into": 10**6}, {"recall": None}):
        about.write_text(json.dumps(json.loads(words) | wrong))
        assert spoilt()
    assert file.read_bytes() == good
    assert json.loads(about.read_text())["vectors"] == json.loads(words)["vectors"]
    with torch.no_grad():
        rec.model.items[3] += 1
    rec.save(tmp_path / "run")
    assert spoilt()


def test_a_forged_one_is_built_anew_and_faiss_reads_no_file(tmp_path: Path, monkeypatch):
    import faiss

    def never(*_: object) -> None:
        raise AssertionError("faiss reads its files without bounds")

    monkeypatch.setattr(faiss, "read_index", never)
    rec = saved(tmp_path)
    open_index(rec, "approximate")
    file, about = tmp_path / "run" / FILE, tmp_path / "run" / SAVED_INDEX.document
    content, words = file.read_bytes(), json.loads(about.read_text())
    good = load_arrays(content)
    size = good["codes"].shape
    assert int(lists_of(good, *size)["sizes"].sum()) == len(good["cell"])
    beyond, below, nan = (good[name].copy() for name in ("cell", "cell", "centroids"))
    beyond[0], below[0], nan[0, 0] = len(nan), -1, np.nan
    wider = np.repeat(good["codes"], 2, 1)
    for wrong in ({"cell": beyond}, {"cell": below}, {"centroids": nan}, {"codes": wider}):
        with pytest.raises(DataError):
            lists_of(good | wrong, *size)
    with pytest.raises(DataError):
        lists_of({k: x for k, x in good.items() if k != "range"}, *size)
    header = b'{"codes": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}'
    odd = len(header).to_bytes(8, "little") + header + b"ab"
    for wrong in (odd, b"\xff" * 8 + content[8:], content[:-1], b""):
        file.write_bytes(wrong)
        with pytest.raises(DataError):
            stored._read_arrays(file, hashlib.sha256(wrong).hexdigest(), *size)
    with file.open("r+b") as sparse:
        sparse.truncate(1 << 40)  # never looked through
    about.write_text(json.dumps(words | {"recall": float("nan")}))
    assert open_index(rec, "approximate").facts["new"]
    assert not open_index(rec, "approximate").facts["new"]


def test_a_folder_that_is_only_to_be_read_is_no_hindrance(tmp_path: Path, monkeypatch):
    rec = saved(tmp_path)

    def refuse(*_: object) -> None:
        raise OSError("read-only")

    monkeypatch.setattr(stored, "sync", refuse)
    found = open_index(rec, "approximate")
    assert found.index.recall > 0.9
    assert sorted(p.name for p in (tmp_path / "run").glob("*index*")) == []
    assert open_index(recommender("elastic"), "approximate").facts["bytes"] > 0


def test_recall_is_measured_on_users_of_the_run_if_they_are_at_hand(
    tmp_path: Path, make_histories: MakeHistories
):
    import longrec

    rng = np.random.default_rng(0)
    rows = [(rng.integers(1, 300, rng.integers(3, 20))).tolist() for _ in range(80)]
    histories = make_histories(rows, n_items=300)
    rec = longrec.train(
        histories, model="elastic", out=tmp_path / "run", dim=8, ffn_dim=8, max_epochs=1
    )
    assert "80 users of the run's own data" in open_index(rec, "approximate").facts["queries"]
    grown = rec.with_items([5_000_000])
    assert "users" in open_index(grown, "approximate").facts["queries"]
    result = CliRunner().invoke(
        app, ["index", str(tmp_path / "run"), "--kind", "approximate", "--json"]
    )
    told = json.loads(result.stdout)
    assert told["index"] == "faiss-ivf"
    assert 0.9 < told["recall_at_10"] <= 1
    assert told["queries"] == "80 users of the run's own data"
    table = CliRunner().invoke(app, ["index", str(tmp_path / "run")])
    assert "exact" in table.stdout


def test_recall_is_the_share_of_the_exact_items(tmp_path: Path):
    from longrec.retrieval.index import TopK
    from longrec.retrieval.recall import recall

    def found(*items: int) -> TopK:
        return TopK(torch.zeros(1, len(items)), torch.tensor([items]))

    assert recall([found(1, 2, 3, 0)], [found(3, 4, 0, 0)]) == 0.5
    assert recall([found(1), found(2)], [found(1), found(2)]) == 1
    assert recall([], []) == 0


def test_streams_use_the_index_that_they_are_given(tmp_path: Path):
    rec = saved(tmp_path, "sasrec")  # whose engine is quickly made
    index = open_index(rec, "approximate").index
    with (
        rec.open_stream(str(tmp_path / "a"), "process", index=index) as one,
        rec.open_stream(str(tmp_path / "b"), "process") as two,
    ):
        for stream in (one, two):
            for at, item in enumerate(rec.catalog.ids[:5]):
                stream.observe("ann", item, at)
        assert one.index is index
        a, b = one.recommend("ann", 5), two.recommend("ann", 5)
        both = a.join(b, on="item", suffix="_exact")
        assert len(both) >= 3
        assert (both["score"] - both["score_exact"]).abs().max() < 1e-5
        assert not set(a["item"]) & set(rec.catalog.ids[:5])
        assert isinstance(a, pl.DataFrame)


def test_lists_that_cannot_be_mapped_a_second_time_are_read(tmp_path: Path, monkeypatch):
    rec = saved(tmp_path)
    h = torch.randn(3, rec.model.width, generator=torch.Generator().manual_seed(0))
    recent = torch.arange(1, 3 * rec.scorer.reach + 1).view(3, -1)
    mapped = open_index(rec, "approximate").index.search(h, 5, None, recent)
    monkeypatch.setattr("longrec.retrieval.cells.file_of", lambda tensor: ("/none", 0))
    opened = open_index(rec, "approximate")
    assert not opened.facts["new"]
    read = opened.index.search(h, 5, None, recent)
    assert read.items.tolist() == mapped.items.tolist()
    assert torch.equal(read.scores, mapped.scores)
