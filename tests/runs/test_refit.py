"""Training for service: on all events, for as long as a measured run found best."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from stops import told_of_steps

import longrec
from longrec.core.errors import DataError, UsageError
from longrec.data.splits import leave_one_out, repeats
from longrec.models import MODELS

TINY = {"dim": 8, "layers": 1, "heads": 1, "experts": 3, "ffn_dim": 8, "dropout": 0}
QUICK = {"max_epochs": 3, "batch_tokens": 64, "learning_rate": 0.01, "warmup_steps": 5}
SMALL = {
    "elastic": TINY,
    "hydrarec": {"dim": 8, "layers": 1, "ffn_dim": 8, "dropout": 0},
    "bert4rec": {"dim": 8, "layers": 1, "heads": 1, "ffn_dim": 8, "dropout": 0},
}


def log(users=30, seed=0, begin=0):
    """Events of a ring of 20 items, user by user, with times that grow from `begin` on."""
    random = np.random.default_rng(seed)
    lengths = random.integers(3, 12, users)
    walk = [(random.integers(20) + np.arange(n)) % 20 + 500 for n in lengths]
    return pl.DataFrame(
        {
            "user": np.repeat(np.arange(users), lengths),
            "item": np.concatenate(walk),
            "time": begin
            + np.concatenate([np.sort(random.integers(0, 10**6, n)) for n in lengths]),
        }
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("refit")


@pytest.fixture(scope="module")
def data(place):
    return longrec.prepare(log(), place / "histories")


@pytest.fixture(scope="module")
def later(data, place):
    """The same histories and what 15 users, five of them new, did after them."""
    newer = log(users=15, seed=1, begin=2 * 10**6).with_columns(pl.col("user") + 20)
    return longrec.prepare(newer, place / "later", extend=data)


@pytest.fixture(scope="module")
def measured(data, place):
    return longrec.train(data, "elastic", place / "run", **TINY, **QUICK)


@pytest.fixture(scope="module")
def final(measured, place):
    return longrec.refit(measured.folder, place / "final")


def weights(rec):
    return {k: v.clone() for k, v in rec.model.state_dict().items()}


def same(a, b):
    a, b = weights(a), weights(b)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def with_training(rec, **facts):
    """The same recommender, in memory, with other facts about how it was trained."""
    about = copy.deepcopy(rec.provenance)
    about["training"] |= facts
    return replace(rec, provenance=about)


class Stop(BaseException):
    pass


def stop_at(epoch, after=0):
    """Stop a training in that epoch, in its `after`-th fit (from 0)."""
    fits, last = 0, 0

    def tell(status):
        nonlocal fits, last
        fits, last = fits + (status.total_steps < last), status.total_steps
        if fits == after and status.epoch == epoch and status.step >= 2:
            raise Stop

    return told_of_steps(tell)


# ---- what a refit is


def test_it_trains_on_every_event_for_the_best_epochs(data, measured, final):
    best = measured.provenance["training"]["best_epoch"]
    assert final.train_config == replace(
        *(measured.train_config,),
        protocol="all",
        max_epochs=best,
        precision=measured.provenance["training"]["precision"],
    )
    assert final.model_config == measured.model_config
    training = final.provenance["training"]
    assert training["epochs"] == best
    assert training["stop"] == "refit"
    assert training["validation"] == {}
    assert training["events"] == best * int((data.lengths - 1).sum())
    assert final.catalog.counts.sum() == data.n_events
    assert final.provenance["protocol"]["training_events"] == data.n_events
    assert measured.catalog.counts.sum() < data.n_events
    assert not same(final, measured)
    assert not final.model.training
    rows = pl.read_csv(final.folder / "log.csv", null_values="nan")
    assert rows["epoch"].to_list() == list(range(1, best + 1))
    assert rows["ndcg10"].null_count() == best
    assert rows["loss"].null_count() == 0


def test_it_says_whose_numbers_are_its_own(data, measured, final):
    about = json.loads((final.folder / "provenance.json").read_text())
    refit, training = about["refit"], measured.provenance["training"]
    assert refit["run"] == str(measured.folder.resolve())
    assert refit["fingerprint"] == data.fingerprint
    assert refit["epochs"] == training["best_epoch"]
    assert refit["validation"] == training["validation"]
    assert refit["settings"] == {
        key: getattr(measured.train_config, key) for key in refit["settings"]
    }
    assert about["policy"] == measured.provenance["policy"]


@pytest.mark.parametrize("decision", [True, False])
def test_it_serves_by_the_policy_that_was_measured(measured, decision):
    hides = replace(measured, exclude_seen=decision)
    final = longrec.refit(with_training(hides, best_epoch=1))
    assert final.exclude_seen is decision
    assert final.provenance["policy"]["exclude_seen"] is decision


def test_it_is_the_same_each_time_and_in_memory(measured, final):
    again = longrec.refit(measured)
    assert again.folder is None
    assert same(again, final)


def test_the_steps_are_those_of_any_training(data, measured):
    """One more epoch makes another model, and the one before it is on its way."""
    losses = []
    for epochs in (1, 2):
        losses.append([])
        longrec.refit(
            with_training(measured, best_epoch=epochs),
            on_epoch=lambda progress: losses[-1].append(progress.loss),
        )
    assert len(losses[0]) == 1
    assert losses[1][0] == losses[0][0]
    assert losses[1][1] < losses[1][0]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("elastic", {"average": 0.9, "weight_decay": 0.1}),
        ("hydrarec", {"loss": "sampled", "negatives": 5, "precision": "bfloat16"}),
        ("bert4rec", {"mask_share": 0.5}),
    ],
)
def test_where_nothing_was_kept_apart_the_refit_is_the_run(place, name, settings):
    """All that a step depends on is as it was: rates, averages, draws, precision."""
    few = longrec.prepare(
        log().group_by("user", maintain_order=True).head(2), place / f"two {name}"
    )
    run = longrec.train(few, name, **SMALL[name], **QUICK | settings)
    training = run.provenance["training"]
    assert (training["best_epoch"], training["validation"]) == (QUICK["max_epochs"], {})
    assert run.provenance["protocol"]["training_events"] == few.n_events
    assert same(longrec.refit(run), run)


@pytest.mark.parametrize("name", ["popularity", "last-item", "transitions"])
def test_counting_models_count_every_event(data, name):
    final = longrec.refit(longrec.train(data, name))
    assert final.provenance["training"]["stop"] == "counted"
    assert final.provenance["protocol"]["training_events"] == data.n_events
    bias = final.model.bias()[1:]
    by_count = np.argsort(-final.catalog.counts, kind="stable")
    if name == "popularity":
        assert (torch.argsort(-bias, stable=True).numpy() == by_count).all()


def test_it_may_train_on_newer_histories(measured, later):
    final = longrec.refit(measured, histories=later)
    assert final.provenance["data"]["fingerprint"] == later.fingerprint
    assert final.provenance["refit"]["fingerprint"] != later.fingerprint
    assert final.catalog.counts.sum() == later.n_events


def test_an_epoch_that_the_time_cut_short_is_trained_to_its_end(data):
    run = longrec.train(data, "hydrarec", max_minutes=1e-9, **SMALL["hydrarec"], **QUICK)
    training = run.provenance["training"]
    assert (training["stop"], training["epochs"], training["best_epoch"]) == ("max_minutes", 0, 1)
    final = longrec.refit(run)
    assert final.provenance["training"]["epochs"] == 1
    assert final.train_config.max_minutes is None


# ---- what is refused


def test_what_cannot_be_refitted(data, measured, final):
    with pytest.raises(UsageError, match=r"is a final run already; refit .*run$"):
        longrec.refit(final)
    with pytest.raises(UsageError, match="does not tell after which epoch"):
        longrec.refit(with_training(measured, best_epoch=None))
    with pytest.raises(UsageError, match="was trained for no epoch"):
        longrec.refit(longrec.train(data, "elastic", **TINY, max_epochs=0))
    added = measured.with_added_score(_popularity(measured))
    with pytest.raises(UsageError, match="added score, 'popularity', which a refit would lose"):
        longrec.refit(added)


def _popularity(rec):
    from longrec.models.common.added_score import ADDED_SCORES

    cls = ADDED_SCORES["popularity"]
    return cls(cls.config_class(), rec.catalog.n_items)


def test_no_run_is_trained_on_all_events_unmeasured(data, tmp_path):
    with pytest.raises(UsageError, match=r"nothing says how long to train: .*--final"):
        longrec.train(data, out=tmp_path / "run", protocol="all", **TINY)
    assert not (tmp_path / "run").exists()


# ---- evaluation


def test_evaluate_refuses_it_on_what_it_was_trained_on(data, measured, final):
    for part in ("test", "validation"):
        with pytest.raises(
            UsageError, match=r"final is a final run: .*run that was measured, .*run,"
        ):
            longrec.evaluate(final, data, part)
        with pytest.raises(UsageError, match=r"this is a final run.*flatter"):
            final.recommend(split=part)
    with pytest.raises(UsageError, match="is a final run"):
        longrec.evaluate(final)
    assert not (final.folder / "metrics.json").exists()


def test_evaluate_ranks_what_is_newer_and_counts_the_rest(data, later, final):
    metrics = longrec.evaluate(replace(final, folder=None), later)
    split = leave_one_out(later)
    newer = later.times[split.test.positions] > data.times.max()
    assert 0 < newer.sum() < len(newer)
    assert f"{(~newer).sum()} of {len(newer)} targets are left out" in metrics.notes["warning"]
    assert metrics.counts["targets"] == newer.sum()


def test_evaluate_refuses_what_it_cannot_tell_apart(final, place):
    older = log(seed=7).with_columns(pl.col("time") // 10)
    other = longrec.prepare(older, place / "other")
    with pytest.raises(UsageError, match="no target is newer"):
        longrec.evaluate(final, other)
    untimed = place / "untimed"
    rows = log(seed=2).drop("time")
    histories = longrec.prepare(rows, untimed, row_order=True)
    gone = longrec.refit(longrec.train(histories, "popularity"))
    extended = longrec.prepare(
        *(rows.head(20), place / "untimed_more"), extend=histories, row_order=True
    )
    assert longrec.evaluate(gone, extended).counts["targets"] > 0
    del histories
    untimed.rename(place / "moved")
    with pytest.raises(UsageError, match="are gone or have changed"):
        longrec.evaluate(gone, extended)


# ---- train(final=True)


@pytest.fixture(scope="module")
def whole(data, place):
    return longrec.train(data, "elastic", place / "whole", final=True, **TINY, **QUICK)


def test_train_final_is_a_run_and_its_refit(data, measured, final, whole):
    assert same(whole, final)
    inner = longrec.load(whole.folder / "measured")
    assert same(inner, measured)
    assert whole.provenance["refit"]["run"] == str(inner.folder.resolve())
    assert {path.name for path in whole.folder.iterdir()} == {
        *("config.json", "model.safetensors", "catalog.parquet", "provenance.json", "log.csv"),
        *("added_score.safetensors", "known_answers.json", "measured"),
    }
    assert longrec.evaluate(inner)["served/ndcg@10"] >= 0
    with pytest.raises(UsageError, match="whole/measured"):
        longrec.evaluate(whole)


def test_a_final_run_that_was_moved_names_the_measured_one_where_it_is(whole, tmp_path):
    import shutil

    moved = longrec.load(shutil.copytree(whole.folder, tmp_path / "moved"))
    with pytest.raises(UsageError, match="moved/measured"):
        longrec.evaluate(moved)


@pytest.mark.parametrize("place_of_stop", [(2, 0), (0, 1)])
def test_train_final_goes_on_from_wherever_it_stopped(data, whole, tmp_path, place_of_stop):
    run, settings = tmp_path / "run", TINY | QUICK | {"checkpoint_minutes": 1e-9}
    with pytest.raises(Stop), stop_at(*place_of_stop):
        longrec.train(data, "elastic", run, final=True, **settings)
    with pytest.raises(DataError, match="has not ended"):
        longrec.load(run)
    with pytest.raises(UsageError, match="started with dim=8, not 16"):
        longrec.train(data, out=run, resume=True, dim=16)
    again = longrec.train(data, out=run, resume=True)  # the plan tells that it is final
    assert same(again, whole)
    assert again.provenance["refit"]["validation"] == whole.provenance["refit"]["validation"]
    assert not list(run.rglob("training.json"))
    assert not list(run.glob("checkpoint-*"))


def test_what_train_final_refuses(data, tmp_path):
    with pytest.raises(UsageError, match="final needs the run's folder"):
        longrec.train(data, "popularity", final=True)
    run = tmp_path / "run"
    with pytest.raises(UsageError, match="dims"):
        longrec.train(data, "elastic", run, final=True, dims=3)
    with pytest.raises(UsageError, match="abacus"):
        longrec.train(data, "elastic", run, final=True, device="abacus", **TINY)
    assert not run.exists()
    with pytest.raises(Stop), stop_at(0):
        longrec.train(data, "elastic", run, checkpoint_minutes=1e-9, **TINY, **QUICK)
    with pytest.raises(UsageError, match="was started without --final"):
        longrec.train(data, out=run, final=True, resume=True)


def test_a_refit_goes_on_where_it_stopped(data, measured, final, tmp_path):
    run = tmp_path / "run"
    ready = replace(measured, train_config=replace(measured.train_config, checkpoint_minutes=1e-9))
    with pytest.raises(Stop), stop_at(0):
        longrec.refit(ready, run)
    assert list(run.glob("checkpoint-*"))
    other = longrec.train(data, "elastic", **TINY, max_epochs=1, seed=3)
    with pytest.raises(UsageError, match="was not begun as a refit of the recommender given"):
        longrec.refit(other, run, resume=True)
    with pytest.raises(UsageError, match="pass --resume"):
        longrec.refit(ready, run)
    assert same(longrec.train(data, out=run, resume=True), final), "the plan tells all"


# ---- warm starts


def test_a_warm_start_from_a_final_run(data, later, final, tmp_path):
    warm = longrec.train(later, out=tmp_path / "warm", warm_start=final)
    # It is measured as the measured run was, and not as a final one.
    assert warm.train_config.protocol == "leave-one-out"
    assert warm.train_config.max_epochs == QUICK["max_epochs"]
    split, about = leave_one_out(later), warm.provenance["warm_start"]
    newer = later.times[split.test.positions] > data.times.max()
    assert about["gain"]["targets"] == newer.sum()
    assert about["targets_trained_before"]["test"] == (~newer).sum()
    known = later.times[split.validation.positions] <= data.times.max()
    assert about["targets_trained_before"]["validation"] == known.sum() > 0
    # Validation leaves these out, or the old weights would seem better than all that follow.
    fair = split.validation.where(~known)
    share = repeats(later, fair.users, fair.positions).mean()
    assert warm.provenance["policy"]["repeats"] == pytest.approx(share)
    assert share != repeats(later, split.validation.users, split.validation.positions).mean()
    assert len(pl.read_csv(warm.folder / "log.csv")) == 1 + QUICK["max_epochs"]


def test_a_refit_of_a_warm_start_starts_from_the_same_weights(measured, later, tmp_path):
    warm = longrec.train(later, out=tmp_path / "warm", warm_start=measured, max_epochs=1)
    old = with_training(warm, best_epoch=0)
    kept = longrec.refit(old)
    assert kept.provenance["training"]["epochs"] == 0
    known = measured.catalog.n_items + 1
    for name in MODELS["elastic"].item_tables(kept.model):
        theirs = measured.model.state_dict()[name]
        assert torch.equal(kept.model.state_dict()[name][:known], theirs)
    final = longrec.refit(with_training(warm, best_epoch=1), tmp_path / "final")
    assert final.provenance["warm_start"]["run"] == str(measured.folder.resolve())
    assert "run that was measured has its gain" in final.provenance["warm_start"]["gain"]["note"]
    assert final.provenance["refit"]["gain"] == warm.provenance["warm_start"]["gain"]
    assert not same(final, kept)
    in_memory = longrec.train(later, warm_start=replace(measured, folder=None), max_epochs=1)
    with pytest.raises(UsageError, match="started from a recommender in memory"):
        longrec.refit(in_memory)
