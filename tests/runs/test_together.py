"""A process that follows another: it refuses to train on something else."""

from __future__ import annotations

from dataclasses import asdict

import pytest

import longrec
from longrec.core.errors import DataError, LongrecError, UsageError
from longrec.core.version import version
from longrec.runs import together
from longrec.runs.folder import make_plan
from longrec.runs.warm_start import origin
from longrec.training.processes import Processes


@pytest.fixture
def told(monkeypatch, make_histories, ring):
    """What rank 0 tells, to be bent; call it to get histories and follow."""
    data = make_histories(ring(5, 9, 3, 9), n_items=9)
    plan = asdict(make_plan(data, "hydrarec", {"dim": 8}, None))
    document = {"plan": plan, "resume": False, "version": version()}
    monkeypatch.setattr(Processes, "document_of_first", lambda self: document)
    document["follow"] = lambda: together.follow(data, None, "cpu")
    return document


def test_other_histories_are_refused(told):
    told["plan"]["provenance"]["data"]["fingerprint"] = "x"
    with pytest.raises(DataError, match=r"not what the first process trains on.*every machine"):
        told["follow"]()


def test_another_version_is_refused(told):
    told["version"] = "0.0.1"
    with pytest.raises(UsageError, match=r"0\.0\.1 in the first process: install the same"):
        told["follow"]()


def test_another_call_is_refused(monkeypatch):
    """Each process tells its own; nothing but a number of processes is asked of torch."""
    first = {"model": "'elastic'", "dim": "16"}
    monkeypatch.setattr(Processes, "document_of_first", lambda self, mine: first)
    Processes(1, 2).check_same({"model": "elastic", "dim": 16})
    with pytest.raises(UsageError, match=r"process 2 of 2 .*dim 8, the first one with 16: give"):
        Processes(1, 2).check_same({"model": "elastic", "dim": 8})
    with pytest.raises(UsageError, match=r"with dim left out, the first one with 16"):
        Processes(1, 2).check_same({"model": "elastic"})


def test_what_is_compared_is_all_that_a_call_says(monkeypatch, make_histories, ring, tmp_path):
    data = make_histories(ring(5, 9, 3, 9), n_items=9)
    old = longrec.train(data, "popularity")
    compared = []
    monkeypatch.setattr(Processes, "check_same", lambda self, call: compared.append(dict(call)))
    longrec.train(data, out=tmp_path / "run", warm_start=old, seed=3, overwrite=True)
    longrec.refit(longrec.train(data, "popularity"), overwrite=True, out=tmp_path / "final")
    digest = origin(old)["digest"]
    asked = {"model": None, "warm_start": digest, "final": False, "recipe": None, "resume": False}
    assert compared[0] == asked | {"overwrite": True, "seed": 3}
    assert compared[-1] == {"run": digest, "resume": False, "overwrite": True}


def test_without_a_plan_it_is_our_fault(told, monkeypatch):
    monkeypatch.setattr(Processes, "document_of_first", lambda self: None)
    with pytest.raises(LongrecError, match="no plan was told"):
        told["follow"]()
