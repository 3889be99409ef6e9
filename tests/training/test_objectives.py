"""Masked items and sampled prefixes: they are learnt, and nothing of a target is read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from training.small_runs import QUICK, SMALL, model_of, run_of

from longrec.config.training import TrainConfig
from longrec.core.errors import LongrecError
from longrec.data.splits import Targets, leave_one_out
from longrec.evaluation.rank_targets import rank_targets
from longrec.models.common.scorer import Scorer
from longrec.training import fit as fitting


@pytest.fixture
def histories(make_histories, ring):
    return make_histories(ring(40, 30, 3, 40), n_items=30)


BIDIRECTIONAL = ["bert4rec", "hydrarec-bidirectional", "elastic-paper"]


@pytest.fixture
def tastes(make_histories):
    """Each user keeps to 6 of the 30 items, in any order: any event tells of any other."""
    random = np.random.default_rng(0)
    lengths = random.integers(3, 30, 60)
    return make_histories(
        [(random.integers(5) * 6 + random.integers(1, 7, n)).tolist() for n in lengths], n_items=30
    )


@pytest.mark.parametrize("name", BIDIRECTIONAL)
def test_masked_items_are_learnt(tmp_path, tastes, name):
    counted = run_of(model_of("popularity", 30), tastes, tmp_path)
    result = run_of(model_of(name, 30), tastes, tmp_path, max_epochs=15)
    assert result.rows[-1].loss < 0.8 * result.rows[0].loss
    assert result.validation["served/ndcg@10"] > counted.validation["served/ndcg@10"] + 0.2
    trained = leave_one_out(tastes).train_end - tastes.offsets[:-1]
    assert result.events == result.epochs * int(trained[trained > 1].sum())  # hidden or not


@pytest.mark.parametrize("name", ["bert4rec", "elastic"])
def test_prefixes_are_learnt(tmp_path, histories, name):
    counted = run_of(model_of("popularity", 30), histories, tmp_path)
    model = model_of(name, 30, **SMALL, targets="last")
    result = run_of(model, histories, tmp_path, max_epochs=12, prefixes=4, window=8)
    assert result.rows[-1].loss < 0.8 * result.rows[0].loss
    assert result.validation["served/ndcg@10"] > counted.validation["served/ndcg@10"] + 0.1


def test_what_training_reads_of_a_masked_batch_is_hidden(tmp_path, histories, monkeypatch):
    """h does not depend on the targets themselves, which stand among the batch's items."""
    model, split = model_of("bert4rec", 30), leave_one_out(histories)
    config = TrainConfig(**QUICK)
    data = fitting.training_data(model, histories, split, config)
    fitted = fitting._Fit(model, data, split, config, tmp_path, None)
    batch = data.epoch(0).batch(0)
    hidden = batch.targets > 0
    other = replace(batch, items=torch.where(hidden, batch.items % 30 + 1, batch.items))
    with torch.no_grad():
        assert torch.equal(fitted.reader.read(batch), fitted.reader.read(other))
        seen = torch.where(hidden | (batch.items == 0), batch.items, batch.items % 30 + 1)
        changed = fitted.reader.read(replace(batch, items=seen))
    assert not torch.allclose(fitted.reader.read(batch)[hidden], changed[hidden])


@pytest.mark.parametrize("name", ["bert4rec", "hydrarec-bidirectional"])
def test_each_target_of_a_user_is_ranked_from_what_stands_before_it(histories, name):
    """A bidirectional model must not read a later target's input for an earlier one."""
    model = model_of(name, 30).double().eval()
    users = np.repeat(np.arange(6), 3)
    place = histories.offsets[users] + np.tile([1, 2, 0], 6)
    place[2::3] = histories.offsets[1:7] - 1
    targets = Targets(users, place, histories.items[place].astype(np.int64), users >= 0)
    ranks = rank_targets(Scorer(model), histories, targets)
    wanted = []
    for user, position in zip(users, place, strict=True):
        seen = torch.from_numpy(histories.items[histories.offsets[user] : position].astype(int))
        with torch.no_grad():
            scores = model.score(model.encode(seen[None])[:, -1])[0]
        wanted.append(int((scores >= scores[int(histories.items[position])]).sum()))
    assert ranks["rank_unfiltered"].to_list() == wanted


@pytest.mark.parametrize(
    ("name", "loss", "epochs"),
    [("hydrarec", "gbce", 25), ("bert4rec", "bce", 10)],
)
def test_pairwise_losses_learn(tmp_path, tastes, name, loss, epochs):
    """gBCE first lowers all scores to the base rate, and only then tells items apart."""
    counted = run_of(model_of("popularity", 30), tastes, tmp_path)
    settings = {"max_epochs": epochs, "patience": epochs, "loss": loss, "negatives": 15}
    settings["learning_rate"] = 2e-2
    result = run_of(model_of(name, 30), tastes, tmp_path, **settings)
    assert result.rows[-1].loss < 0.8 * result.rows[0].loss
    assert result.validation["served/ndcg@10"] > counted.validation["served/ndcg@10"] + 0.2


def test_a_model_that_sees_later_events_is_refused(tmp_path, histories, monkeypatch):
    """Also one whose config did not check."""
    model = model_of("sasrec", 30)
    monkeypatch.setattr(type(model), "causal", False)
    with pytest.raises(LongrecError, match=r"'next', but sasrec sees later .*use targets=masked"):
        run_of(model, histories, tmp_path)


@pytest.mark.parametrize(
    ("name", "setting", "match"),
    [
        ("elastic", {"mask_share": 0.3}, "mask_share is 0.3, but elastic has targets 'next'"),
        ("elastic", {"prefixes": 2}, "only targets=last reads it: leave prefixes out"),
        ("bert4rec", {"prefixes": 2}, "prefixes is 2, but bert4rec has targets 'masked'"),
    ],
)
def test_a_setting_that_nothing_reads_is_refused(tmp_path, histories, name, setting, match):
    with pytest.raises(LongrecError, match=match):
        run_of(model_of(name, 30), histories, tmp_path, **setting)
