"""Over many items a step reads and updates only the rows it needs, and ends where all rows would.

The whole flow of a fit is held to the rule of rows.py as a plain loop, in float64.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from training.plain_rows import PlainRows
from training.small_runs import SMALL, model_of, run_of

from longrec.config.training import TrainConfig
from longrec.data.splits import leave_one_out
from longrec.models import SequenceModel
from longrec.training import fit as fitting
from longrec.training import optimiser
from longrec.training.objective import reads_few_items

ITEMS = 60
SPARSE = ["sampled", "gbce", "bce"]
QUICK = {"max_epochs": 2, "batch_tokens": 120, "negatives": 5, "weight_decay": 0.5}


@pytest.fixture
def histories(make_histories, ring):
    """Of 60 items half stand in no history: they are drawn as negatives, or are never read."""
    return make_histories(ring(15, 30, 3, 30), n_items=ITEMS)


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setattr(fitting, "reads_few_items", lambda config, n_items: True)


@pytest.mark.parametrize(
    ("loss", "n_items", "few"),
    [
        *((loss, 1_000_000, True) for loss in SPARSE),
        *((loss, 3_400, False) for loss in SPARSE),
        ("full", 1_000_000, False),
        ("sampled", 9_999, False),
        ("sampled", 10_000, True),
    ],
)
def test_loss_and_size_decide(loss, n_items, few):
    negatives = {} if loss == "full" else {"negatives": 100}
    assert reads_few_items(TrainConfig(loss=loss, batch_tokens=900, **negatives), n_items) is few


@pytest.mark.parametrize(
    ("name", "loss", "settings", "training"),
    [
        *(("elastic", loss, {}, {"window": 16}) for loss in SPARSE),
        ("sasrec", "sampled", {}, {"context": 20, "clip": 0.05}),
        ("bert4rec", "gbce", {}, {"context": 20}),
        ("hydrarec", "bce", {"targets": "last"}, {"average": 0.0}),
        ("elastic-paper", "sampled", {"memory_slots": 64, "memory_topk": 4}, {}),
    ],
)
def test_a_fit_ends_where_a_plain_loop_ends(
    tmp_path, histories, monkeypatch, always, name, loss, settings, training
):
    models, results = [], []
    for rows in (optimiser.RowAdam, PlainRows):
        monkeypatch.setattr(optimiser, "RowAdam", rows)
        model = model_of(name, ITEMS, **SMALL, **settings).double()
        results.append(
            run_of(model, histories, tmp_path / rows.__name__, loss=loss, **QUICK, **training)
        )
        models.append(model)
    lazy, plain = models
    assert lazy.sparse_tables() == ["items"]
    assert not lazy.items[0].any()
    for (key, found), wanted in zip(
        lazy.state_dict().items(), plain.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(
            found, wanted, rtol=1e-7, atol=1e-9, msg=lambda text, k=key: f"{k}: {text}"
        )
    for mine, theirs in zip(*(result.rows for result in results), strict=True):
        assert mine.loss == pytest.approx(theirs.loss, rel=1e-9)
        assert mine.ndcg10 == theirs.ndcg10


class Large(TorchDispatchMode):
    """What made or changed a dense tensor of at least so many elements."""

    def __init__(self, least: int) -> None:
        super().__init__()
        self.least, self.made, self.changed = least, set(), set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {id(x) for x in args if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor) and not tensor.is_sparse and tensor.numel() >= self.least:
                if id(tensor) in given:
                    self.changed.add(func.overloadpacket.__name__)
                elif not func.is_view and func.overloadpacket.__name__ != "detach":
                    self.made.add(func.overloadpacket.__name__)
        return out


def fit_of(model: SequenceModel, histories, folder: Path, **training) -> fitting._Fit:
    config, split = TrainConfig(**training), leave_one_out(histories)
    data = fitting.training_data(model, histories, split, config)
    return fitting._Fit(model, data, split, config, folder, None)


@pytest.mark.parametrize("loss", SPARSE)
def test_a_step_makes_nothing_of_the_catalogs_size(tmp_path, make_histories, ring, loss):
    many = 40_000
    histories = make_histories(ring(25, 30, 3, 40), n_items=many)
    model = model_of("hydrarec", many, **SMALL)
    before = model.items.detach().clone()
    fitted = fit_of(model, histories, tmp_path, loss=loss, batch_tokens=100, negatives=20)
    model.train()
    batches = list(fitted.data.epoch(0).batches())[:3]
    with Large(many) as seen:
        for batch in batches:
            fitted.step(batch)
            fitted.status.total_steps += 1
    assert seen.made == set()
    assert seen.changed == {"index_copy_"}
    moved = (model.items != before).any(1)
    assert len(torch.cat([batch.items.unique() for batch in batches])) / 2 < moved.sum() < 500
    assert not model.items[0].any()


def test_keeping_the_best_weights_makes_no_further_copy(tmp_path, histories, always):
    model = model_of("hydrarec", ITEMS, **SMALL)
    fitted = fit_of(model, histories, tmp_path, loss="sampled", **QUICK)
    places = {name: tensor.data_ptr() for name, tensor in fitted.best.items()}
    fitted.run(resume=False, validate_first=False)
    assert {name: tensor.data_ptr() for name, tensor in fitted.best.items()} == places
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, fitted.best[name]), name


def test_the_full_loss_updates_every_row(tmp_path, histories):
    model = model_of("hydrarec", ITEMS, **SMALL)
    before = model.items.detach().clone()
    run_of(model, histories, tmp_path, max_epochs=1)
    assert model.sparse_tables() == []
    assert (model.items != before).any(1)[1:].all()


@pytest.mark.slow
def test_rows_learn_as_fast_as_all_of_them(tmp_path, make_histories, ring, monkeypatch):
    """With momentum only where a row is touched, seldom rows moved a tenth and this fell behind."""
    histories, found = make_histories(ring(60, 300, 30, 50), n_items=300), []
    for few in (False, True):
        monkeypatch.setattr(fitting, "reads_few_items", lambda config, n_items, few=few: few)
        model = model_of("hydrarec", 300, **SMALL)
        training = {"loss": "sampled", "negatives": 32, "max_epochs": 8, "batch_tokens": 300}
        found.append(run_of(model, histories, tmp_path / str(few), **training).rows[-1].loss)
    dense, by_rows = found
    assert by_rows < 1.05 * dense < 0.95 * 5.7  # log 300: nothing learnt
