"""Each check of models fails for a model that lacks the property, and a right one passes all."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from checks import toys
from checks.toys import register
from models import skeletons

from longrec.checks import reading, scoring, trained
from longrec.checks.compare import CheckFailed
from longrec.checks.recorded import check_recorded_step
from longrec.checks.run import MODEL_CHECKS, TRAINED_CHECKS, Outcome, check_model, run_all
from longrec.checks.small_model import SmallModel
from longrec.checks.trained_model import TrainedModel

bfloat16 = partial(reading.check_float_type, kind=torch.bfloat16)

FAULTS = [
    (toys.SeesTheFuture, reading.check_causal, "h before event 1, which was changed: relative"),
    (toys.SeesTheFuture, reading.check_streaming, "h by prefill"),
    (toys.NotCausalAfterAll, reading.check_causal, "causal is False, but event 1 changes no h"),
    (toys.ReadsTimes, reading.check_times, "h without times"),
    (toys.SeesPadding, reading.check_padding, "h of a history of 1 events, padded to 30"),
    (toys.Forgets, reading.check_streaming, "h by step 0: relative error"),
    (toys.Forgets, reading.check_prefills, "h of events 8 to 16 by prefill"),
    (toys.Quadratic, reading.check_cost, r"operations grow as T\^1\.[2-9]\d \(at most T\^1.05"),
    (toys.OnlyFloat32, bfloat16, "encode gives torch.float32 of a model in torch.bfloat16"),
    (toys.MakesStates, reading.check_refuses_states, "initial_state makes a state"),
    (toys.Strided, scoring.check_weights, r"turned of shape \(3, 12\) has strides \(1, 3\)"),
    (toys.InNoGroup, scoring.check_groups, "in no group: .*norm.bias"),
    (toys.OtherRows, scoring.check_vectors, r"item_vectors\(items\): relative error 1"),
    (toys.OtherRows, scoring.check_scores, r"score\(h, items \(C,\)\)"),
    (toys.ScoresPairsTogether, scoring.check_pairs, "score_pairs of a candidate alone"),
    (toys.Overflows, scoring.check_scores, "scores are not finite: "),
    (toys.CountsTwice, scoring.check_counts, r"rows\(recent\) must be .* each pair once"),
]


@pytest.mark.parametrize(
    ("toy", "check", "message"), FAULTS, ids=[f"{f[0].__name__}-{n}" for n, f in enumerate(FAULTS)]
)
def test_a_broken_model_fails(toy, check, message, monkeypatch) -> None:
    with pytest.raises(CheckFailed, match=message):
        check(SmallModel(register(monkeypatch, toy)))


FAULTS_WHEN_TRAINED = [
    (toys.IgnoredInterest, trained.check_gradients, "no gradient reached second.bias, second.wei"),
    (toys.LearnsNothing, trained.check_training, "the training loss went from"),
    (
        toys.TableOfItsOwn,
        trained.check_new_items,
        "popularity has another size .*item_tables",
    ),
    (
        toys.NotSaved,
        trained.check_saving,
        "what was saved does not load: .* does not score as when it was saved",
    ),
]


@pytest.mark.parametrize(
    ("toy", "check", "message"), FAULTS_WHEN_TRAINED, ids=lambda x: getattr(x, "__name__", "")
)
def test_a_broken_model_fails_once_trained(toy, check, message, monkeypatch) -> None:
    with (
        TrainedModel(SmallModel(register(monkeypatch, toy))) as by_training,
        pytest.raises(CheckFailed, match=message),
    ):
        check(by_training)


def test_a_list_in_another_order_than_the_ranks_is_seen(monkeypatch) -> None:
    name = register(monkeypatch, toys.Right)
    with TrainedModel(SmallModel(name)) as by_training:
        index = by_training.recommender.index
        search = index.search
        monkeypatch.setattr(
            index, "search", lambda *args: (found := search(*args))._replace(scores=-found.scores)
        )
        with pytest.raises(CheckFailed, match="evaluate gives user 0 unfiltered rank"):
            trained.check_ranks(by_training)


def failed(found: list[Outcome]) -> list[Outcome]:
    return [outcome for outcome in found if outcome.result == "failed"]


def test_a_right_model_passes_every_check(monkeypatch) -> None:
    found = list(check_model(register(monkeypatch, toys.Right)))
    assert failed(found) == []
    assert [o.check for o in found] == [*MODEL_CHECKS, *TRAINED_CHECKS]
    why_not = {o.check: o.reason for o in found if o.result == "not applicable"}
    assert why_not == {
        "masks hide what they stand for": "its targets are 'next'",
        "no streaming: states are refused": "streaming is 'exact'",
        "scores are those of pairs": "it scores by vectors",
        "scores are a bias and rows by the last items": "it is trained by gradient",
    }


@pytest.mark.parametrize("name", skeletons.SKELETONS)
def test_skeletons_of_other_systems_pass(name, monkeypatch) -> None:
    skeletons.register(monkeypatch)
    assert failed(list(run_all(name, MODEL_CHECKS, SmallModel(name)))) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", skeletons.SKELETONS)
def test_skeletons_of_other_systems_pass_when_trained(name, monkeypatch) -> None:
    skeletons.register(monkeypatch)
    with TrainedModel(SmallModel(name)) as by_training:
        assert failed(list(run_all(name, TRAINED_CHECKS, by_training))) == []


def test_a_step_that_cannot_be_recorded_passes_with_a_remark(monkeypatch) -> None:
    remark = check_recorded_step(SmallModel(register(monkeypatch, toys.DecidesByData)))
    assert remark is not None
    assert "not recorded, so that a stream takes the model's own step" in remark


def test_a_crash_is_a_failed_check_with_its_line(monkeypatch) -> None:
    name = register(monkeypatch, toys.Crashes)
    found = {o.check: o for o in check_model(name)}
    crash = found["causal as declared"]
    assert crash.result == "failed"
    assert crash.reason.startswith("IndexError: only integers")
    assert "(toys.py, line " in crash.reason
    assert found["settings"].result == "passed"
    assert found["save and load"].result == "failed"
