"""An export's example gives the lists of `recommend`: its policy on seen items, its ties, rows."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl
import pytest
import torch
from export.small_exports import small
from export.test_scores import named, skeleton  # noqa: F401
from models.small_models import make
from serving.small_streams import COUNTING, UNKNOWN, recommender

from longrec.core.errors import UsageError
from longrec.export.folder import EXPORT, export
from longrec.export.parity import Runtime
from longrec.export.rows import Rows
from longrec.models.common.added_score import PopularityScore
from longrec.models.transitions import Transitions, TransitionsScore
from longrec.recommender import Recommender

EXAMPLE = Path(__file__).parents[2] / "examples" / "serve_from_export.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    """The example, as a module."""
    spec = importlib.util.spec_from_file_location("serve_from_export", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def histories(ids: np.ndarray, users: int = 12) -> list[list[int]]:
    """Of many lengths, none and one among them, and with an item that no catalog has."""
    random = np.random.default_rng(0)
    rows = [random.choice(ids, length).tolist() for length in (0, 1, 2, 3, 70, 5)]
    rows += [random.choice(ids, random.integers(1, 30)).tolist() for _ in range(users - 6)]
    return [
        row[:1] + [UNKNOWN + 10_000] * (number % 2) + row[1:] for number, row in enumerate(rows)
    ]


def check_lists(rec: Recommender, example: ModuleType, folder: Path) -> None:
    """The example's lists are the recommender's, whether seen items are hidden or shown."""
    export(rec, folder)
    served = example.Export(folder)
    k = rec.catalog.n_items - 3
    rows = histories(rec.catalog.ids.to_numpy())
    for hides in (True, False):
        now = replace(rec, exclude_seen=hides)
        served.exclude_seen = hides
        frame = now.recommend(histories=rows, k=k)
        for number, history in enumerate(rows):
            user = example.User(served)
            user.observe([str(item) for item in history[:-1]])
            user.observe([str(item) for item in history[-1:]])
            wanted = frame.filter(pl.col("user") == number)["item"].cast(pl.String).to_list()
            assert user.recommend(k) == wanted, (number, hides)
    assert EXPORT.read(folder)["scoring"]["exclude_seen"] is rec.exclude_seen


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("name", [*COUNTING, "recent-popularity", "item-knn", "ease"])
def test_of_models_that_count(name, exclude_seen, example, tmp_path):
    rec = replace(recommender(name), exclude_seen=exclude_seen)
    check_lists(rec, example, tmp_path / "out")
    manifest = EXPORT.read(tmp_path / "out")
    assert manifest["graphs"] == {}
    assert not (tmp_path / "out" / "item_vectors.npy").exists()
    assert (manifest["scoring"]["rows"] is None) == ("popularity" in name)
    assert manifest["parity"]["difference"] == 0  # the same operations in the same order


def test_a_counting_model_with_an_added_score(example, tmp_path):
    rec = recommender("transitions")
    rec = rec.with_added_score(PopularityScore.of(rec.catalog.counts, weight=-0.7))
    check_lists(rec, example, tmp_path / "one")
    both = recommender("last-item").with_added_score(transitions())
    with pytest.raises(UsageError, match="so does the model itself"):
        export(both, tmp_path / "two")


def transitions(weight: float = 0.8) -> TransitionsScore:
    model = make("transitions")
    assert isinstance(model, Transitions)
    return model.as_added_score(weight)


def twins(rec: Recommender) -> Recommender:
    """With every third item the twin of another: the same vectors, and bias."""
    model = rec.model
    with torch.no_grad():
        for name in model.item_tables():
            table = model.state_dict()[name]
            table[2 : len(table) - 1 : 3] = table[3 : len(table) : 3]
    return rec


@pytest.mark.slow
@pytest.mark.parametrize("case", ["sasrec", "elastic"])
def test_items_of_one_vector_tie(case, example, tmp_path):
    check_lists(twins(small(case)), example, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two-interests"])
def test_items_of_one_vector_and_bias_tie(name, example, tmp_path):
    check_lists(twins(skeleton(name)), example, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("case", ["hydrarec"])
def test_with_transitions_added(case, example, tmp_path):
    rec = small(case).with_added_score(transitions())
    check_lists(rec, example, tmp_path / "out")
    assert EXPORT.read(tmp_path / "out")["scoring"]["rows"]["weight"] == 0.8


@pytest.mark.parametrize("width", [1, 3, 12, 64, 129])
def test_scores_by_files_tie_wherever_an_item_stands(width, tmp_path):
    """Without a graph: of h itself, for tables that a matrix product rounds by place."""
    random = np.random.default_rng(0)
    vectors = np.repeat(random.normal(size=(1, width)), 501, 0).astype(np.float32)
    np.save(tmp_path / "item_vectors.npy", vectors)
    scores = Runtime(tmp_path).scores(random.normal(size=(4, width)).astype(np.float32))
    assert (scores == scores[:, :1]).all()


def test_rows_of_no_last_item_add_nothing(tmp_path):
    export(recommender("transitions"), tmp_path / "out")
    rows = Rows(tmp_path / "out", EXPORT.read(tmp_path / "out")["scoring"]["rows"])
    assert not rows.added(np.zeros(3, np.int64)).any()
