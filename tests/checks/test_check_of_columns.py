"""A model that reads types and numbers of events goes through every check with them."""

from __future__ import annotations

import pytest
import torch
from checks import toys
from checks.toys import register
from models.column_models import COLUMN_MODELS, registered

from longrec.checks import reading
from longrec.checks.compare import CheckFailed
from longrec.checks.run import MODEL_CHECKS, TRAINED_CHECKS, Outcome, check_model, run_all
from longrec.checks.small_model import SmallModel
from longrec.checks.trained_model import TrainedModel


def wrong(found: list[Outcome]) -> list[Outcome]:
    return [o for o in found if o.result not in ("passed", "not applicable")]


@pytest.mark.slow
def test_every_check_passes_or_does_not_apply(monkeypatch) -> None:
    name, checks = register(monkeypatch, toys.ReadsColumns), dict(MODEL_CHECKS)
    del checks["cost is linear"]  # half of the time; the slow test has it
    small = SmallModel(name)
    with TrainedModel(small) as by_training:
        found = [*run_all(name, checks, small), *run_all(name, TRAINED_CHECKS, by_training)]
    assert wrong(found) == []
    told = {o.check: (o.result, o.reason) for o in found}
    for check in ("streaming: the recorded step", "bfloat16", *TRAINED_CHECKS):
        assert told[check] == ("passed", ""), check


@pytest.mark.slow
@pytest.mark.parametrize("name", COLUMN_MODELS)
def test_models_of_other_kinds_that_read_columns_pass(name) -> None:
    with registered():
        assert wrong(list(check_model(name))) == []


def test_events_are_given_as_models_read_them(monkeypatch) -> None:
    small = SmallModel(register(monkeypatch, toys.ReadsColumns))
    types, weights = small.batch.columns["type"], small.batch.columns["weight"]
    assert (types.dtype, weights.dtype) == (torch.int64, torch.float32)
    assert (types.min(), types.max()) == (-1, 2)
    with TrainedModel(small) as by_training:
        columns = by_training.histories.columns
        assert (columns["type"].words, columns["weight"].words) == (("buy", "cart", "view"), None)


def test_a_step_that_forgets_a_column_is_seen(monkeypatch) -> None:
    small = SmallModel(register(monkeypatch, toys.StepsWithoutColumns))
    with pytest.raises(CheckFailed, match="h by step 0: relative error"):
        reading.check_streaming(small)
