"""Every model on another device than the CPU: train, evaluate, recommend there, and stream here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from models import skeletons
from other_device import CUDA, Elsewhere, other_device
from small_histories import tiny_histories, walks
from stops import told_of_steps

import longrec
from longrec.data.histories import Histories
from longrec.models import MODELS, CountingModel
from longrec.training.progress import FitStatus

TINY: dict[str, Any] = {"dim": 8, "layers": 1, "max_epochs": 1, "batch_tokens": 512}
QUICK = ("elastic", "sasrec", "target-aware")
"""Models that the fast suite takes; the slow one takes all others, too."""
NAMES = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
    for name in (*MODELS, *skeletons.SKELETONS)
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Histories:
    rows = walks(12, 40, 4, 20, 1)
    times = [[100 + 60 * n for n in range(len(row))] for row in rows]
    return tiny_histories(tmp_path_factory.mktemp("data") / "histories", rows, times, 40)


@pytest.fixture(autouse=True)
def there(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All of a test happens beside the other device, and with the skeletons registered."""
    skeletons.register(monkeypatch)
    with other_device():
        yield


def train(data: Histories, name: str, **more: Any) -> longrec.Recommender:
    counts = name in MODELS and issubclass(MODELS[name], CountingModel)
    settings = {} if counts else TINY
    if not counts and name not in QUICK:
        settings = settings | {"transitions": 0}  # that those serve from there the quick ones show
    if name in ("dfar", "target-aware"):
        settings = settings | {"loss": "sampled", "negatives": 4}
    return longrec.train(data, name, device="cuda", progress=False, **settings, **more)


def same(a: pl.DataFrame, b: pl.DataFrame) -> None:
    """Frames of recommendations with the same items, and scores to rounding."""
    assert a["item"].to_list() == b["item"].to_list()
    assert a["score"].to_list() == pytest.approx(b["score"].to_list(), rel=1e-4, abs=1e-5)


def test_the_other_device_refuses_what_a_gpu_refuses() -> None:
    x = torch.ones(2, 3, device="cuda", requires_grad=True)
    assert isinstance(x, Elsewhere)
    assert x.device == CUDA
    assert (torch.arange(3, device=x.device) * x).device == CUDA
    with pytest.raises(TypeError, match="cuda:0"):
        x.detach().numpy()
    with pytest.raises(RuntimeError, match="at least two devices"):
        x * torch.ones(3)
    (x.cpu() * torch.full((3,), 2.0)).sum().backward()
    assert x.grad is not None
    assert x.grad.device == CUDA
    assert x.grad.tolist() == [[2.0] * 3] * 2


@pytest.mark.parametrize("name", NAMES)
def test_a_model_lives_on_another_device_and_streams_on_the_cpu(
    name: str, data: Histories, tmp_path: Path
) -> None:
    rec = train(data, name)
    users = data.user_ids[:3].to_list()
    if not isinstance(rec.model, CountingModel):
        assert {x.device for x in rec.model.state_dict().values()} == {CUDA}
    found = rec.recommend(users, data, k=4)
    here = rec.on_cpu()
    assert here.state_digest == rec.state_digest
    same(here.recommend(users, data, k=4), found)
    there, again = longrec.evaluate(rec, data), longrec.evaluate(here, data)
    assert dict(there) == pytest.approx(dict(again))
    longrec.load(rec.save(tmp_path / "run"))
    if rec.model.streaming == "none":
        return
    # Counts of training alone: those of the log would serve as soon as they are more.
    with rec.open_stream(str(tmp_path / "store"), fresh_counts=None) as stream:
        stream.rebuild(data)
        same(stream.recommend(users[0], k=4), found[:4])
        stream.observe(users[0], data.catalog.ids[0], 10_000)
        assert len(stream.recommend(users[0], k=4)) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "sampled", "negatives": 4},
        {"memory_slots": 16, "memory_topk": 2},
        {"forgetting": "time"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_further_ways_to_train_there(settings: dict[str, Any], data: Histories) -> None:
    rec = train(data, "elastic", **settings)
    assert rec.model.device == CUDA


def test_what_else_is_done_with_a_recommender_there(data: Histories) -> None:
    rec, user = train(data, "elastic"), data.user_ids[0]
    item = data.catalog.ids[0]
    assert len(rec.similar(item, k=3)) == 3
    explained, here = (r.explain(item, user, data) for r in (rec, rec.on_cpu()))
    assert explained.score == pytest.approx(here.score, abs=1e-5)
    more = rec.with_items([9999])
    assert more.model.device == CUDA
    same(more.on_cpu().recommend([user], data), more.recommend([user], data))
    warm = longrec.train(data, warm_start=more, device="cuda", progress=False, max_epochs=1)
    assert warm.model.device == CUDA


@pytest.mark.slow
def test_training_there_is_interrupted_and_goes_on(data: Histories, tmp_path: Path) -> None:
    def interrupted(status: FitStatus) -> None:
        if status.total_steps == 2:
            raise KeyboardInterrupt

    settings = TINY | {
        "max_epochs": 2,
        "batch_tokens": 64,
        "context": 8,
        "checkpoint_minutes": 1e-9,
    }
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt), told_of_steps(interrupted):
        longrec.train(data, "elastic", run, device="cuda", progress=False, **settings)
    rec = longrec.train(data, out=run, resume=True, device="cuda", progress=False)
    assert rec.model.device == CUDA
    assert rec.provenance["training"]["epochs"] == 2
