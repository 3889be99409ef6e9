"""A store is not served by a model whose catalog means other items by the ids that are logged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from models.small_models import N
from serving.small_streams import FIRST, grown, recommender, small_stream

from longrec.core.errors import DataError
from longrec.data.catalog import Catalog
from longrec.recommender import Recommender, load


def with_ids(rec: Recommender, ids: object) -> Recommender:
    """The recommender as if it had been trained on other items."""
    return replace(rec, catalog=Catalog(pl.Series("id", ids), rec.catalog.counts))


@pytest.fixture
def store(tmp_path: Path) -> str:
    with small_stream("elastic", tmp_path / "users") as stream:
        stream.observe("ann", FIRST + 1, 1_700_000_000)
        stream.observe("bob", FIRST + N - 1, 1_700_000_000)
    return str(tmp_path / "users")


def test_another_catalog_that_has_logged_ids_is_refused_unless_allowed(store: str):
    rec = recommender("hydrarec")
    other = with_ids(rec, np.arange(FIRST - 10, FIRST - 10 + rec.catalog.n_items))
    words = r"of 2 logged events looked at 1 would count.*--another-catalog"
    with pytest.raises(DataError, match=words):
        other.open_stream(store, "process", beside=True)
    with other.open_stream(store, "process", beside=True, another_catalog=True) as stream:
        stream.rebuild()
    with other.open_stream(store, "process"):  # which it serves from now on
        pass


def test_the_same_catalog_a_grown_one_and_one_without_these_ids_are_taken(store: str):
    rec = recommender("hydrarec")
    foreign = with_ids(recommender("last-item"), [f"sku-{n}" for n in range(rec.catalog.n_items)])
    for new in (rec, grown(recommender("sasrec-rotary"), [7, 8]), foreign):
        new.open_stream(store, "process", beside=True).close()


def test_a_run_trained_on_from_the_served_one_needs_no_leave(tmp_path: Path):
    old = tmp_path / "run"
    recommender("elastic").save(old)
    url = str(tmp_path / "users")
    with load(old).open_stream(url, "process") as stream:
        stream.observe("ann", FIRST + 5, 1_700_000_000)
    rec = recommender("hydrarec")
    other = with_ids(rec, np.arange(FIRST - 1, FIRST - 1 + rec.catalog.n_items))
    with pytest.raises(DataError, match="another catalog than elastic"):
        other.open_stream(url, "process", beside=True)
    about = {"warm_start": {"run": str(old.resolve())}}
    replace(other, provenance=about).open_stream(url, "process", beside=True).close()
