"""Ids in, the same ids out, whatever their type."""

from __future__ import annotations

import dataclasses
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import longrec.data.catalog as catalog_module
from longrec.core.errors import DataError, UsageError
from longrec.data.catalog import Catalog


def catalog_of(ids: list, dtype: pl.DataType | None = None) -> Catalog:
    series = pl.Series("id", ids, dtype=dtype)
    return Catalog(series, np.arange(1, len(ids) + 1))


IDS = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, unique=True),
    st.lists(st.text(min_size=1).filter(lambda t: t.isprintable()), min_size=1, unique=True),
)


@settings(deadline=None, max_examples=30)
@given(IDS, st.randoms())
def test_find_and_take_are_inverse_in_any_order(ids: list, random) -> None:
    random.shuffle(ids)
    catalog = catalog_of(ids)
    indices = catalog.find(ids)
    assert indices.tolist() == list(range(1, len(ids) + 1))
    assert catalog.take(indices).to_list() == ids
    assert catalog.find([str(one) for one in ids]).tolist() == indices.tolist()


@pytest.mark.parametrize(
    ("ids", "dtype"),
    [
        ([3, 5, 9], pl.Int64),
        ([3, 5, 9], pl.UInt16),
        ([2**63 + 1, 2**63 + 2], pl.UInt64),
        (["a", "b", "ü 💡"], pl.String),
        ([b"\x00\x01", b"\xff"], pl.Binary),
        ([date(2020, 1, 1), date(2021, 1, 1)], pl.Date),
        ([False, True], pl.Boolean),
    ],
)
def test_save_keeps_type_order_and_counts(tmp_path: Path, ids: list, dtype: pl.DataType) -> None:
    catalog = catalog_of(ids, dtype)
    folder = tmp_path / "day=1"  # looks like a partition to Parquet readers
    folder.mkdir()
    catalog.save(folder / "catalog.parquet")
    again = Catalog.load(folder / "catalog.parquet")
    assert again.ids.dtype == dtype
    assert again.ids.to_list() == ids
    assert again.counts.tolist() == catalog.counts.tolist()
    assert again.digest == catalog.digest
    assert again.find(ids).tolist() == list(range(1, len(ids) + 1))


def test_unknown_ids_are_zero() -> None:
    numbers = catalog_of([10, 20])
    wanted = ["20", "x", "020", None, 10, 15, 2**70, 20.0, 20.5]
    assert numbers.find(wanted).tolist() == [2, 0, 0, 0, 1, 0, 0, 0, 0]
    assert numbers.find([20.0, 20.5, float("nan")]).tolist() == [2, 0, 0]
    assert numbers.find(pl.Series([1, 30], dtype=pl.Int8)).tolist() == [0, 0]
    words = catalog_of(["10", "b"])
    assert words.find([10, 11]).tolist() == [1, 0]
    assert words.find([]).tolist() == []
    assert words.find(pl.Series(["b", None], dtype=pl.Categorical)).tolist() == [2, 0]


def test_take_refuses_an_index_outside_and_gives_null_for_padding() -> None:
    catalog = catalog_of(["a", "b"])
    assert catalog.take(np.array([[2, 0], [1, 1]])).to_list() == ["b", None, "a", "a"]
    assert catalog.take(np.array([], dtype=np.int64)).to_list() == []
    for bad in (3, -1):
        with pytest.raises(UsageError, match=f"{bad} is not in 0..2"):
            catalog.take(np.array([bad]))
    with pytest.raises(UsageError, match="as a list"):
        catalog.find("a")


def test_digest_tells_ids_apart() -> None:
    seen = {
        catalog_of(ids, dtype).digest
        for ids, dtype in [
            ([1, 2], pl.Int64),
            ([1, 2], pl.Int32),
            ([2, 1], pl.Int64),
            (["1", "2"], None),
            (["12", ""], None),
            (["", "12"], None),
        ]
    }
    assert len(seen) == 6
    chunked = pl.concat([pl.Series(["a"]), pl.Series(["b", "cc"])], rechunk=False)
    assert Catalog(chunked, np.ones(3)).digest == catalog_of(["a", "b", "cc"]).digest
    assert Catalog(chunked[1:], np.ones(2)).digest == catalog_of(["b", "cc"]).digest


def test_damaged_files_say_so(tmp_path: Path) -> None:
    file = tmp_path / "catalog.parquet"
    with pytest.raises(DataError, match="no such catalog file"):
        Catalog.load(file)
    file.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        Catalog.load(file)
    pq.write_table(pa.table({"movie": [1]}), str(file))
    with pytest.raises(DataError, match="columns id and count, this file has movie"):
        Catalog.load(file)
    with pytest.raises(DataError, match="null"):
        catalog_of([1, None])
    with pytest.raises(DataError, match="2 ids was given 1 counts"):
        Catalog(pl.Series([1, 2]), np.ones(1))


def test_ids_are_hashed_once_and_are_the_catalogs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = []
    hash_ids = catalog_module.hash_ids
    monkeypatch.setattr(
        catalog_module, "hash_ids", lambda h, ids: (hashed.append(len(ids)), hash_ids(h, ids))[1]
    )
    ids = pl.Series(["a", "b", "c"])
    catalog = Catalog(ids, np.ones(3, np.int64))
    digest = catalog.digest
    ids[0] = "another"
    ids.append(pl.Series(["more"]))
    assert catalog.ids.to_list() == ["a", "b", "c"]
    assert catalog.digest == digest
    assert hashed == [3]
    assert Catalog(ids, np.ones(4, np.int64)).digest != digest
    assert dataclasses.replace(catalog, ids=pl.Series(["a", "b", "d"])).digest != digest
