"""What a training tells its caller after each epoch, how that ends it, and the curve that stays."""

from __future__ import annotations

import csv
import dataclasses
import pickle

import numpy as np
import polars as pl
import pytest
from small_histories import tiny_histories, walks

import longrec
from longrec.core.errors import UsageError
from longrec.training.progress import Progress

TINY = {"dim": 8, "layers": 1, "batch_tokens": 256, "warmup_steps": 2, "dropout": 0.0}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_histories(tmp_path_factory.mktemp("on-epoch") / "h", walks(40, 20, 5, 15))


def test_every_epoch_is_told_and_the_log_says_the_same(data, tmp_path):
    told: list[Progress] = []
    rec = longrec.train(
        *(data, "elastic", tmp_path / "run"),
        on_epoch=told.append,
        **TINY,
        max_epochs=5,
        validate_every=2,
    )
    assert [one.epoch for one in told] == [1, 2, 3, 4, 5]
    assert [one.ndcg10 is None for one in told] == [True, False, True, False, False]
    assert [one.stop for one in told] == ["", "", "", "", "max_epochs"]
    assert not any(one.final for one in told)
    settings = dict(told[0].settings)
    assert (told[0].model, settings["dim"], settings["max_epochs"]) == ("elastic", 8, 5)
    validated = [one for one in told if one.ndcg10 is not None]
    log = rec.curve
    for name in ("epoch", "step", "events", "loss", "ndcg10", "hr10"):
        assert log[name].to_list() == [getattr(one, name) for one in validated], name
    assert told[-1].best_ndcg10 == log["ndcg10"].max()
    best = rec.provenance["training"]["best_epoch"]
    assert told[-1].best_epoch == best == log["epoch"][log["ndcg10"].arg_max()]
    with (tmp_path / "run" / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["ndcg10"]) for row in rows] == log["ndcg10"].to_list()
    assert longrec.load(tmp_path / "run").curve.equals(log)


def test_a_record_cannot_be_changed_and_can_be_sent(data):
    told: list[Progress] = []
    longrec.train(data, "popularity", on_epoch=told.append)
    assert [(one.stop, one.epoch, one.step) for one in told] == [("counted", 1, 0)]
    assert told[0].ndcg10 == told[0].best_ndcg10 > 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        told[0].epoch = 3  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(told[0])) == told[0]
    assert dict(dataclasses.asdict(told[0])["settings"])["max_epochs"] == 200


@pytest.mark.parametrize("answer", [True, np.True_])
@pytest.mark.parametrize("every", [1, 3])
def test_true_ends_training_with_the_best_weights_validated(data, answer, every):
    told: list[Progress] = []

    def stop(progress: Progress) -> object:
        told.append(progress)
        return answer if progress.epoch == 2 else None

    settings = TINY | {"max_epochs": 9, "validate_every": every}
    rec = longrec.train(data, "elastic", on_epoch=stop, **settings)
    ended = rec.provenance["training"]
    assert (ended["stop"], ended["converged"], ended["epochs"]) == ("on_epoch", False, 2)
    assert rec.curve["epoch"].to_list() == [1, 2][-len(rec.curve) :]
    assert rec.provenance["transitions"]["ndcg10_without"] == rec.curve["ndcg10"].max()
    # Weights that were not validated yet are, and that is told as well.
    assert [one.stop for one in told] == ["", ""] + ([] if every == 1 else ["on_epoch"])


@pytest.mark.parametrize("answer", [1, "stop", [1], False, 0.0])
def test_nothing_but_true_ends_it(data, answer):
    rec = longrec.train(data, "elastic", on_epoch=lambda progress: answer, **TINY, max_epochs=2)
    assert rec.provenance["training"]["stop"] == "max_epochs"


def test_what_it_raises_ends_the_call_and_resume_goes_on(data, tmp_path):
    class Enough(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.epoch == 2:
            raise Enough

    run, settings = tmp_path / "run", TINY | {"max_epochs": 4}
    with pytest.raises(Enough):
        longrec.train(data, "elastic", run, on_epoch=stop, **settings)
    told: list[Progress] = []
    rec = longrec.train(data, out=run, resume=True, on_epoch=told.append)
    assert [one.epoch for one in told] == [3, 4]
    whole = longrec.train(data, "elastic", **settings)
    assert rec.curve.drop("seconds").equals(whole.curve.drop("seconds"))
    assert len(whole.curve) == 4


def test_a_run_that_it_ended_can_go_on(data, tmp_path):
    run, settings = tmp_path / "run", TINY | {"max_epochs": 4}
    longrec.train(data, "elastic", run, on_epoch=lambda progress: progress.epoch == 2, **settings)
    assert longrec.load(run).provenance["training"]["stop"] == "on_epoch"
    again = longrec.train(data, out=run, resume=True)
    whole = longrec.train(data, "elastic", **settings)
    assert again.provenance["training"]["stop"] == "max_epochs"
    assert again.curve.drop("seconds").equals(whole.curve.drop("seconds"))


def test_a_final_run_tells_of_both_trainings(data, tmp_path):
    told: list[Progress] = []
    settings = TINY | {"max_epochs": 2}
    longrec.train(data, "elastic", tmp_path / "run", final=True, on_epoch=told.append, **settings)
    measured = [one for one in told if not one.final]
    final = [one for one in told if one.final]
    assert told == measured + final
    assert [one.epoch for one in measured] == [1, 2]
    assert final[-1].epoch == measured[-1].best_epoch
    assert all(one.ndcg10 is None and one.best_ndcg10 is None for one in final)


def test_a_warm_start_tells_of_its_old_weights(data):
    old = longrec.train(data, "elastic", **TINY, max_epochs=1)
    told: list[Progress] = []
    longrec.train(data, warm_start=old, on_epoch=told.append, max_epochs=1)
    assert [(one.epoch, one.loss is None) for one in told] == [(0, True), (1, False)]
    stopped = longrec.train(data, warm_start=old, on_epoch=lambda progress: True, max_epochs=3)
    assert stopped.provenance["training"]["epochs"] == 0


def test_saving_over_a_recommender_takes_the_curve_along(data, tmp_path):
    trained = longrec.train(data, "elastic", **TINY, max_epochs=1)
    counted = longrec.train(data, "popularity")
    trained.save(tmp_path / "a")
    assert longrec.load(tmp_path / "a").curve.equals(trained.curve)
    assert len(trained.with_added_score(None).curve) == 1
    counted.save(tmp_path / "a")
    assert not len(longrec.load(tmp_path / "a").curve)
    assert counted.curve.schema == trained.curve.schema
    assert trained.curve.schema["loss"] == pl.Float64


def test_a_function_as_progress_is_told_where_to_go(data):
    with pytest.raises(UsageError, match="after every epoch is on_epoch"):
        longrec.train(data, "popularity", progress=print)
    with pytest.raises(UsageError, match=r"on_epoch is 5; give a function.*longrec\.Progress"):
        longrec.train(data, "popularity", on_epoch=5)


def test_the_curve_is_drawn_in_the_colours_of_the_page(data, tmp_path):
    rec = longrec.train(data, "elastic", **TINY, max_epochs=3)
    picture = rec.plot_curve()
    assert repr(picture) == "Picture(training of elastic, 3 validations)"
    shown = picture._repr_html_()
    assert shown.count("<svg") == 1
    assert "validation NDCG@10" in shown
    assert "currentColor" in shown
    assert "<svg color=" in picture.save(tmp_path / "curve.svg").read_text()
    with pytest.raises(UsageError, match="popularity has no log"):
        longrec.train(data, "popularity").plot_curve()
