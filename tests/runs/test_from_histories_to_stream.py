"""Systems with frames of their own, from histories to a stream: trained, evaluated, recommended."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from models.skeletons import SKELETONS, TwoInterests, register
from small_histories import tiny_histories, walks

import longrec
from longrec.core.errors import UsageError
from longrec.retrieval.index_cache import open_index

ROWS = walks(30, 25, 4, 20)
SMALL = {"dim": 8, "layers": 1, "max_epochs": 2, "progress": False}


@pytest.mark.parametrize("name", SKELETONS)
def test_a_system_with_a_frame_of_its_own_goes_all_the_way(name, tmp_path: Path, monkeypatch):
    register(monkeypatch)
    histories = tiny_histories(tmp_path / "histories", ROWS, n_items=25)
    loss = {"loss": "sampled", "negatives": 10} if name == "target-aware" else {}
    longrec.train(histories, name, out=tmp_path / "run", **SMALL, **loss)
    rec = longrec.load(tmp_path / "run")
    assert 0 < longrec.evaluate(rec)["hr@20"] <= 1
    frame = rec.recommend(users=["user00000", "user00007"], k=7)
    with rec.open_stream(str(tmp_path / "store"), "process") as stream:
        stream.rebuild(histories)
        for user, mine in frame.group_by("user", maintain_order=True):
            found = stream.recommend(user[0], k=7)
            assert found["item"].to_list() == mine["item"].to_list()
            torch.testing.assert_close(
                found["score"].to_torch(), mine["score"].to_torch(), rtol=1e-4, atol=1e-5
            )
    if name == "target-aware":
        with pytest.raises(UsageError, match="target-aware on cpu has no approximate index"):
            open_index(rec, "approximate")


class Zeroed(TwoInterests):
    """Whose interests have biases of zero until they are trained."""

    def __init__(self, config, n_items: int) -> None:
        super().__init__(config, n_items)
        torch.nn.init.zeros_(self.interests.bias)


def test_all_vectors_of_a_user_are_trained_and_ranked_by(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(SKELETONS, "two-interests", Zeroed)
    register(monkeypatch)
    histories = tiny_histories(tmp_path / "histories", ROWS, n_items=25)
    rec = longrec.train(histories, "two-interests", **SMALL)
    model = rec.model
    with torch.no_grad():
        h = model.encode(torch.tensor([[1, 2, 3]]))[:, -1]
        products = model.user_vectors(h) @ model.item_vectors().t()
        both = products.amax(1)[:, 1:] + model.item_bias()[1:]
        torch.testing.assert_close(rec.scorer.score(h)[:, 1:], both)
    assert (model.interests.bias.unflatten(0, (2, -1)).abs().sum(1) > 0).all()
