"""What the time since the event before says: its definition, and models that read it."""

from __future__ import annotations

import math

import pytest
import torch
from models.small_models import SEQUENCE, make, near, sequences, small
from small_histories import walks

import longrec
from longrec.checks.run import MODEL_CHECKS, run_all
from longrec.core.errors import UsageError
from longrec.mixers import Context
from longrec.models import MODELS
from longrec.models.common.gaps import NEVER, GapVectors

QUICK = ("elastic", "sasrec")


def test_gap_vectors_are_their_definition():
    gaps = GapVectors(3).double().eval()
    lengths = [0, 1, 2, 3, 4, 7, 8, 3599, 3600, 2**31 - 1, 2**31, 2**40]
    for start in (-(2**62), -7, 0, 1_700_000_000):
        times = start + torch.tensor(lengths).cumsum(0)[None]
        wanted = [0, *(1 + math.floor(1 + math.log2(n)) if n else 1 for n in lengths[1:])]
        wanted = [min(index, 33) for index in wanted]
        near(gaps(times)[0], gaps.vectors[wanted])
        one_by_one, before = [], torch.tensor([NEVER])
        for time in times[0]:
            one_by_one.append(gaps(time[None], before))
            before = time[None]
        near(torch.cat(one_by_one), gaps.vectors[wanted])
        near(gaps(times[:, 0]), gaps.vectors[:1])
        near(gaps(times[:, 4:], times[:, 3])[0], gaps.vectors[wanted[4:]])


def test_a_late_event_has_a_gap_of_0_and_time_does_not_go_back():
    gaps = GapVectors(3).eval()
    near(gaps(torch.tensor([[9, 5, 10]]), torch.tensor([8]))[0], gaps.vectors[[2, 1, 2]])
    near(gaps(torch.tensor([[3, 9]]), torch.tensor([8]))[0], gaps.vectors[[1, 2]])
    near(gaps(torch.tensor([3]), torch.tensor([8])), gaps.vectors[[1]])
    model = make("elastic", gaps=True)
    items, times = torch.tensor([[1, 2, 3]]), torch.tensor([[9, 5, 7]])
    _, late = model.prefill(items, model.initial_state(1), Context(times=times))
    assert late.time.tolist() == [9]


def test_no_events_have_no_gaps():
    none, gaps = torch.zeros(2, 0, dtype=torch.int64), GapVectors(3)
    assert gaps(none, torch.tensor([NEVER, 5])).shape == gaps(none).shape == (2, 0, 3)


def test_histories_without_times_are_read_and_some_are_hidden_in_training():
    gaps, times = GapVectors(3), torch.arange(4000).view(1000, 4)
    unknown = gaps.vectors[0].expand(1000, 4, 3)
    near(gaps(None), gaps.vectors[0])
    near(gaps(torch.full_like(times, NEVER)), unknown)
    near(gaps.eval()(times)[:, 1:], gaps.vectors[2].expand(1000, 3, 3))
    hidden = (gaps.train()(times) == unknown).all(2).all(1)
    assert 20 < int(hidden.sum()) < 90
    model = make("elastic", gaps=True)
    items, _ = sequences()
    near(model.encode(items), model.encode(items, Context(times=torch.full_like(items, NEVER))))


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in SEQUENCE]
)
def test_every_check_of_models_passes_with_gaps(name):
    found = {o.check: o for o in run_all(name, MODEL_CHECKS, small(name, gaps=True))}
    assert [outcome for outcome in found.values() if outcome.result == "failed"] == []
    if MODELS[name].streaming == "exact":
        assert found["streaming: the recorded step"].reason == ""


def test_the_gap_before_an_event_counts_and_the_one_after_does_not():
    model = make("elastic", gaps=True)
    items, times = sequences(1, 6)
    h = model.encode(items, Context(times=times))
    later = times.clone()
    later[:, 4:] += 10_000
    moved = model.encode(items, Context(times=later))
    near(moved[:, :4], h[:, :4])
    assert (moved[:, 4] - h[:, 4]).abs().max() > 1e-6


def test_elastic_reads_gaps_where_the_log_has_times(make_histories):
    rows = walks(6, 9, 4, 9, 1)
    timed = make_histories(rows, [[60 * n for n in range(len(row))] for row in rows], 9)
    plain = make_histories(rows, None, 9)
    tiny = {"dim": 8, "layers": 1, "max_epochs": 1, "progress": False, "transitions": 0}
    assert not longrec.train(plain, "elastic", **tiny).model_config.gaps
    assert not longrec.train(timed, "elastic", gaps=False, **tiny).model_config.gaps
    assert not longrec.train(timed, "lrurec", **tiny).model_config.gaps
    rec = longrec.train(timed, "elastic", **tiny)
    assert rec.model_config.gaps
    with pytest.raises(UsageError, match=r"have no times: .*, or train with gaps=false$"):
        longrec.evaluate(rec, plain)
    with pytest.raises(UsageError, match=r"gaps=false$"):
        longrec.train(plain, "lrurec", gaps=True, **tiny)
    again = longrec.train(timed, warm_start=rec, max_epochs=1, progress=False)
    assert again.model_config.gaps
