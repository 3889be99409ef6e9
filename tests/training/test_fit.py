"""Fitting: what is read, how it stops, and that it learns."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from training.small_runs import QUICK, SMALL, model_of, run_of

from longrec.config.border import make_config
from longrec.config.training import TrainConfig
from longrec.core.errors import DataError, LongrecError, UsageError
from longrec.data.batches import TrainingData
from longrec.data.splits import leave_one_out
from longrec.evaluation.rank_targets import rank_targets
from longrec.mixers import product_keys as memory
from longrec.models import MODELS
from longrec.models.common.scorer import Scorer
from longrec.training import fit as fitting
from longrec.training.fit import fit
from longrec.training.losses import full_cross_entropy
from longrec.training.validation import draw_targets, validated


@pytest.fixture
def histories(make_histories, ring):
    rows = ring(40, 30, 3, 40)
    times = [[n * 50 + user for n in range(len(row))] for user, row in enumerate(rows)]
    return make_histories(rows, times, n_items=30)


@pytest.mark.parametrize("name", ["elastic", "hydrarec", "sasrec-rotary"])
def test_windows_with_carried_state_give_the_loss_of_whole_histories(
    tmp_path, make_histories, ring, name
):
    rows = ring(12, 30, 3, 40)
    histories = make_histories(rows, [[n * 50 for n in range(len(row))] for row in rows], 30)
    model = model_of(name, 30)
    split = leave_one_out(histories)

    def reading(window: int) -> tuple[float, int]:
        config = TrainConfig(**QUICK, window=window)
        data = TrainingData(histories, split.train_end, None, window, 400, 0)
        fitted = fitting._Fit(model, data, split, config, tmp_path, None)
        total, events = 0.0, 0
        for batch in data.epoch(0).batches():
            real = batch.targets > 0
            with torch.no_grad():
                h = fitted.reader.read(batch)[real]
            loss = full_cross_entropy(h[:, None], model.item_vectors(), batch.targets[real])
            total, events = total + loss.item() * int(real.sum()), events + int(real.sum())
        return total / events, events

    whole, events = reading(4096)
    assert events == int((split.train_end - histories.offsets[:-1] - 1).sum())
    for window in (1, 7, 16):
        assert reading(window) == (pytest.approx(whole, abs=1e-5), events), window


def test_the_state_between_windows_is_detached(tmp_path, histories):
    model, split = model_of("elastic", 30), leave_one_out(histories)
    data = TrainingData(histories, split.train_end, None, 8, 400, 0)
    fitted = fitting._Fit(model, data, split, TrainConfig(**QUICK), tmp_path, None)
    carried = 0
    for batch in data.epoch(0).batches():
        fitted.reader.read(batch).sum().backward()
        assert (fitted.reader.state is not None) == batch.carries
        if fitted.reader.state is not None:
            carried += 1
            assert not fitted.reader.state.output.requires_grad
            assert not fitted.reader.state.layers[0].mean.requires_grad
    assert carried > 3


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("elastic", {}),
        ("hydrarec", {"precision": "bfloat16"}),
        ("sasrec", {}),
        ("sasrec-rotary", {"loss": "sampled", "negatives": 20, "window": 16}),
    ],
)
def test_training_learns(tmp_path, histories, name, settings):
    counted = run_of(model_of("popularity", 30), histories, tmp_path)
    reports = []
    settings = settings | {"max_epochs": 12, "show": reports.append}
    result = run_of(model_of(name, 30), histories, tmp_path, **settings)
    assert result.stop == "max_epochs"
    assert not result.converged
    assert result.epochs == 12
    assert [row.epoch for row in result.rows] == list(range(1, 13))
    assert result.rows[-1].loss < 0.8 * result.rows[0].loss
    assert result.validation["served/ndcg@10"] == max(row.ndcg10 for row in result.rows)
    assert result.validation["served/ndcg@10"] > counted.validation["served/ndcg@10"] + 0.1
    assert result.events == 12 * int(
        (leave_one_out(histories).train_end - histories.offsets[:-1] - 1).sum()
    )
    assert reports[-1].status.epoch == 12
    assert any(report.validating is not None for report in reports)


@pytest.mark.parametrize("average", [0.0, 0.95])
def test_the_model_is_left_with_its_best_weights(tmp_path, histories, average):
    model = model_of("hydrarec", 30)
    result = run_of(model, histories, tmp_path, max_epochs=6, learning_rate=0.2, average=average)
    assert not model.training
    ranks = rank_targets(Scorer(model), histories, leave_one_out(histories).validation)
    found = validated(ranks)
    assert result.validation == {"served/ndcg@10": found.ndcg10, "served/hr@10": found.hr10}


def test_the_number_of_workers_changes_nothing(tmp_path, histories):
    weights = []
    for workers in (0, 2):
        model = model_of("elastic", 30)
        result = run_of(model, histories, tmp_path, workers=workers, window=16)
        weights.append((model.state_dict(), [row.loss for row in result.rows]))
    assert weights[0][1] == weights[1][1]
    for name, tensor in weights[0][0].items():
        assert torch.equal(tensor, weights[1][0][name]), name


def test_the_seed_changes_the_numbers(tmp_path, histories):
    losses = [
        run_of(model_of("hydrarec", 30), histories, tmp_path, seed=seed).rows[0].loss
        for seed in (0, 0, 1)
    ]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("name", ["elastic", "sasrec"])
def test_context_cuts_what_is_read(tmp_path, histories, name, monkeypatch):
    widest = []
    cls = MODELS[name]
    original = cls.encode

    def spying(self, items, *rest):
        widest.append(items.shape[1])
        return original(self, items, *rest)

    monkeypatch.setattr(cls, "encode", spying)
    settings = SMALL | ({"max_length": 9} if name == "sasrec" else {})
    context = None if name == "sasrec" else 9
    result = run_of(model_of(name, 30, **settings), histories, tmp_path, context=context)
    validated_of = leave_one_out(histories).validation.lengths(histories.offsets).max()
    # A model that streams exactly is validated as its stream will be: on whole histories.
    assert max(widest) == (9 if name == "sasrec" else validated_of)
    trained = leave_one_out(histories).train_end - histories.offsets[:-1]
    assert result.dropped == int(np.maximum(trained - 10, 0).sum()) > 0
    assert result.events == 2 * int(np.minimum(trained - 1, 9).sum())
    assert run_of(model_of("elastic", 30), histories, tmp_path).dropped == 0


def test_no_improvement_is_convergence(tmp_path, histories):
    model = model_of("hydrarec", 30)
    result = run_of(
        model, histories, tmp_path, max_epochs=50, patience=2, learning_rate=1e-30, weight_decay=0
    )
    assert result.stop == "converged"
    assert result.converged
    assert result.epochs == 3  # the first is the best, then two without a better one
    assert len(result.rows) == 3


def test_out_of_time_is_not_convergence(tmp_path, histories):
    model = model_of("hydrarec", 30)
    result = run_of(model, histories, tmp_path, max_minutes=1e-9)
    assert result.stop == "max_minutes"
    assert not result.converged
    assert len(result.rows) == 1
    assert result.rows[0].step == 1
    # With more time the same run goes on.
    config = TrainConfig(**QUICK)
    again = fit(model, histories, leave_one_out(histories), config, tmp_path, resume=True)
    assert again.stop == "max_epochs"
    assert again.epochs == 2


def test_a_loss_that_is_not_finite_is_explained(tmp_path, histories):
    model = model_of("hydrarec", 30)
    with torch.no_grad():
        model.items[3] = torch.nan
    with pytest.raises(LongrecError, match=r"the loss is nan at epoch 0, step 0.*learning_rate"):
        run_of(model, histories, tmp_path)


def test_weights_to_start_from_are_validated_and_kept_if_nothing_is_better(tmp_path, histories):
    model = model_of("hydrarec", 30)
    run_of(model, histories, tmp_path, max_epochs=12)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    split = leave_one_out(histories)
    found = validated(rank_targets(Scorer(model), histories, split.validation))
    told = []
    config = TrainConfig(**QUICK | {"learning_rate": 0.5, "average": 0.0})
    result = fit(model, histories, split, config, tmp_path, show=told.append, validate_first=True)
    first = result.rows[0]
    assert (first.epoch, first.step, first.events, first.loss) == (0, 0, 0, None)
    assert first.ndcg10 == found.ndcg10 > max(row.ndcg10 for row in result.rows[1:])
    assert result.validation == {"served/ndcg@10": found.ndcg10, "served/hr@10": found.hr10}
    assert [row.epoch for row in result.rows] == [0, 1, 2]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert told[0].loss is None
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert lines[1].split(",")[4] == ""


def test_patience_counts_from_the_weights_to_start_from(tmp_path, histories):
    model, split = model_of("hydrarec", 30), leave_one_out(histories)
    config = TrainConfig(learning_rate=1e-30, weight_decay=0, patience=2)
    result = fit(model, histories, split, config, tmp_path, validate_first=True)
    assert result.stop == "converged"
    assert [row.epoch for row in result.rows] == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "slots"), [("elastic-paper", 64), ("elastic-paper", 0), ("sasrec", 0)]
)
def test_the_log_tells_how_the_memory_bank_is_used(tmp_path, histories, name, slots):
    settings = SMALL | ({"memory_slots": slots, "memory_topk": 4} if slots else {})
    if name == "elastic-paper" and not slots:
        settings |= {"memory_slots": 0}
    result = run_of(model_of(name, 30, **settings), histories, tmp_path)
    head, *lines = (line.split(",") for line in (tmp_path / "log.csv").read_text().splitlines())
    assert head[-3:] == ["memory_share", "memory_entropy", "memory_kl"]
    for row, line in zip(result.rows, lines, strict=True):
        if not slots:
            assert line[-3:] == ["", "", ""]
            assert row.memory_share is row.memory_entropy is row.memory_kl is None
            continue
        assert [float(cell) for cell in line[-3:]] == [
            row.memory_share,
            row.memory_entropy,
            row.memory_kl,
        ]
        assert 4 / 64 <= row.memory_share <= 1
        assert 0 < row.memory_entropy <= 1
        assert row.memory_kl == pytest.approx((1 - row.memory_entropy) * np.log(64), abs=1e-9)


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_rows_that_were_never_read_have_decayed_with_the_others(
    tmp_path, histories, monkeypatch, average
):
    """What is validated and kept is up to date, though unread rows wait while training."""
    monkeypatch.setattr(memory, "SPARSE_ROWS", 64)
    model = model_of("elastic-paper", 30, **SMALL, memory_slots=256, memory_topk=1)
    assert model.sparse_tables() == ["memory.slots"]
    before = model.memory.slots.detach().clone()
    run_of(model, histories, tmp_path, weight_decay=0.5, average=average, max_epochs=1)
    ratio = model.memory.slots.detach() / before
    unread = (ratio - ratio[:, :1]).abs().amax(1) < 1e-4  # shrunk as a whole, not moved
    assert 100 < unread.sum() < 256
    assert ratio[unread].max() < 1 - 1e-4
    assert ratio[unread].std() < 1e-5


def test_histories_that_change_under_a_run_stop_it(tmp_path, histories):
    def touch(report):
        os.utime(histories.path / "events.arrow", (1, 1))

    with pytest.raises(DataError, match=r"events\.arrow was changed"):
        run_of(model_of("elastic", 30), histories, tmp_path / "run", show=touch)


def test_nothing_to_train_on_is_explained(tmp_path, make_histories):
    h = make_histories([[1], [2]], n_items=3)
    with pytest.raises(LongrecError, match="nothing to train on"):
        run_of(model_of("hydrarec", 3), h, tmp_path)


def test_without_validation_targets_the_latest_weights_are_kept(tmp_path, make_histories):
    h = make_histories([[n % 5 + 1, (n + 1) % 5 + 1] for n in range(20)], n_items=5)
    model = model_of("hydrarec", 5)
    before = model.items.detach().clone()
    result = run_of(model, h, tmp_path, max_epochs=15, patience=2, average=0.0)
    assert result.validation == {}
    assert result.stop == "max_epochs"
    assert not torch.allclose(model.items, before)
    scores = model.score(model.encode(torch.tensor([[1]]))[:, -1])
    assert int(scores.argmax()) == 2
    assert run_of(model_of("popularity", 5), h, tmp_path).validation == {}


def test_counting_models_count_training_events_only(tmp_path, make_histories):
    h = make_histories([[1, 2, 2, 3, 4], [4, 4], [5]], n_items=5)
    model = model_of("popularity", 5)
    result = run_of(model, h, tmp_path)
    assert model.counts.tolist() == [0, 1, 2, 0, 2, 1]
    assert result.stop == "counted"
    assert result.converged
    assert result.events == 6
    follow = model_of("last-item", 5)
    run_of(follow, h, tmp_path)
    scores = follow.score(torch.tensor([[1], [2], [4], [5]]))
    assert (scores[:, 1:] >= 1).int().tolist() == [
        [0, 1, 0, 0, 0],
        [0, 1, 0, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0],
    ]


def test_validation_draws_users_once_by_the_seed(histories):
    targets = leave_one_out(histories).validation
    some = draw_targets(targets, 10, 0)
    assert len(some) == 10
    assert (np.diff(some.users) > 0).all()
    assert np.array_equal(some.positions, draw_targets(targets, 10, 0).positions)
    assert not np.array_equal(some.positions, draw_targets(targets, 10, 1).positions)
    assert draw_targets(targets, 1000, 0) is targets


def test_unseen_items_miss_in_validation(tmp_path, histories, monkeypatch):
    split = leave_one_out(histories)
    unknown = np.zeros_like(split.validation.items)  # in no catalog
    split = replace(split, validation=replace(split.validation, items=unknown))
    result = fit(model_of("popularity", 30), histories, split, TrainConfig(), tmp_path)
    assert result.validation == {"served/ndcg@10": 0.0, "served/hr@10": 0.0}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("patience", 0),
        ("max_epochs", -1),
        ("max_minutes", 0.0),
        ("context", 0),
        ("window", 0),
        ("batch_tokens", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("clip", -1.0),
        ("beta2", 1.0),
        ("average", 1.0),
        ("negatives", 0),
        ("workers", -1),
        ("weight_decay", -0.1),
        ("checkpoint_minutes", 0.0),
        ("prefixes", 0),
        ("mask_share", 0.0),
        ("mask_share", 1.0),
        ("mask_last", 1.5),
        ("gbce_t", -0.5),
    ],
)
def test_a_bad_setting_is_named_with_its_value(field, value):
    with pytest.raises(UsageError, match=f"{field} is {value}"):
        make_config(TrainConfig, {field: value})


def test_settings_that_no_loss_reads_are_refused():
    with pytest.raises(ValueError, match=r"negatives is 20, but loss is 'full', .*loss=sampled"):
        TrainConfig(negatives=20)
    with pytest.raises(ValueError, match=r"gbce_t is 0\.5, but loss is 'bce', .*set loss=gbce"):
        TrainConfig(loss="bce", gbce_t=0.5)
    assert TrainConfig(loss="gbce", gbce_t=0.5).gbce_t == 0.5


def test_minutes_of_the_processor_are_those_that_it_computes(histories, tmp_path, monkeypatch):
    ticks = iter(range(10_000))  # a clock on which every look is a second later
    monkeypatch.setitem(fitting.CLOCKS, "processor", lambda: float(next(ticks)))
    model = model_of("hydrarec", 30)
    few = run_of(model, histories, tmp_path, clock="processor", max_minutes=2 / 60)
    assert few.stop == "max_minutes"
    assert few.seconds == int(few.seconds) >= 2
