"""An export's files give the score that is served, whatever a model's scores are made of."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import polars as pl
import pytest
import torch
from export.small_exports import empty, histories
from models import added_scores
from models.skeletons import SKELETONS, SYSTEMS
from models.small_models import N

from longrec.config.training import TrainConfig
from longrec.core.errors import UsageError
from longrec.data.catalog import Catalog
from longrec.export.folder import EXPORT, export
from longrec.export.parity import TOLERANCE, Runtime
from longrec.mixers import Context
from longrec.models.common.added_score import PopularityScore
from longrec.recommender import Recommender

SMALL = {"dim": 12, "ffn_dim": 16, "layers": 1, "max_length": 5}


@pytest.fixture(autouse=True)
def named(monkeypatch):
    for name, cls in SKELETONS.items():
        monkeypatch.setattr(cls, "name", name, raising=False)


def skeleton(name: str, added=None) -> Recommender:
    """With biases and tables that do not stand at their start."""
    cls = SYSTEMS[name]
    keys = {field.name for field in fields(cls.config_class)}
    config = cls.config_class(**{key: SMALL[key] for key in SMALL.keys() & keys})
    torch.manual_seed(0)
    model = cls(config, N).eval()
    with torch.no_grad():
        for table in model.item_tables():
            getattr(model, table)[1:].normal_()
    catalog = Catalog(pl.Series("id", np.arange(N)), np.arange(N, dtype=np.int64))
    return Recommender(name, model, config, TrainConfig(), catalog, added=added)


def check(rec: Recommender, folder) -> dict:
    """Scores by the files are the recommender's; -> the manifest."""
    manifest = export(rec, folder)
    assert EXPORT.read(folder)["scoring"] == manifest["scoring"]
    items, times = histories(3, rec.limit or 70)
    runtime, lengths = Runtime(folder), np.full(3, items.shape[1])
    if rec.limit is None:
        h = runtime.prefill(items, lengths, times, empty(manifest, 3))["output"]
    else:
        h = runtime.run("encode", {"items": items, "lengths": lengths, "times": times})["h"]
    with torch.no_grad():
        own = rec.model.encode(torch.from_numpy(items), Context(times=torch.from_numpy(times)))
        wanted = rec.scorer.score(own[:, -1])[:, 1:].numpy()
    assert np.abs(runtime.scores(h) - wanted).max() < TOLERANCE * wanted.std()
    vectors = np.load(folder / "item_vectors.npy")
    np.testing.assert_array_equal(vectors, rec.item_vectors().numpy())
    assert manifest["dim"] == vectors.shape[1]
    bias = rec.scorer.bias()
    assert (folder / "item_bias.npy").exists() == (bias is not None)
    return manifest


@pytest.mark.slow
def test_users_and_items_whose_vectors_are_computed(tmp_path):
    """Cosine scores: neither are users' vectors h, nor items' those that are read."""
    rec = skeleton("hstu")
    manifest = check(rec, tmp_path / "out")
    assert manifest["scoring"]["user_graph"] == "user"
    assert {*manifest["graphs"]} == {"encode", "user"}
    read = np.load(tmp_path / "out" / "read_vectors.npy")
    np.testing.assert_array_equal(read, rec.model.items.detach().numpy())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "user", "read", "bias"),
    [
        ("two-interests", True, False, True),
        ("untied", False, True, True),
    ],
)
def test_models_that_stream(name, user, read, bias, tmp_path):
    added = PopularityScore.of(np.arange(N), weight=0.5) if name == "untied" else None
    manifest = check(skeleton(name, added), tmp_path / "out")
    assert (manifest["scoring"]["user_graph"] is not None) == user
    assert (tmp_path / "out" / "read_vectors.npy").exists() == read
    assert (manifest["scoring"]["bias"] is not None) == bias


def test_what_vectors_cannot_say_is_refused_by_name(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="target-aware scores a user and an item together"):
        export(skeleton("target-aware"), tmp_path / "out")
    added_scores.register(monkeypatch)
    rec = skeleton("untied", added_scores.FollowersScore.of([[1, 2, 3]], N))
    with pytest.raises(UsageError, match=r"'followers', which reads .* last 2 items.*without it"):
        export(rec, tmp_path / "out")
    rec = skeleton("untied")
    rec.model.reads_columns = ("type",)
    with pytest.raises(UsageError, match="untied reads the columns type of events"):
        export(rec, tmp_path / "out")
    assert not list(tmp_path.iterdir())
