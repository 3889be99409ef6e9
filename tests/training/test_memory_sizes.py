"""Memory banks of every size train, and report their use; large ones by rows."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from training.small_runs import SMALL, model_of, run_of

SIZES = [2**8, 2**12, 2**16, pytest.param(2**20, marks=pytest.mark.slow)]


@pytest.mark.parametrize("slots", SIZES)
@pytest.mark.parametrize("name", ["elastic", "elastic-paper"])
def test_memory_banks_train_and_report_their_use(make_histories, ring, tmp_path: Path, name, slots):
    histories = make_histories(ring(30, 20, 70, 100))
    model = model_of(name, histories.n_items, **SMALL, memory_slots=slots, memory_topk=4)
    before = {k: v.clone() for k, v in model.state_dict().items() if "slots" in k}
    result = run_of(model, histories, tmp_path / "run")
    assert len(before) == 1
    for key, slots_before in before.items():
        change = (model.state_dict()[key] - slots_before).abs().amax(1)
        assert change.max() > 1e-3
        if slots >= 2**16:  # what is never read has decayed and nothing else
            assert change.median() < 1e-4
    with (tmp_path / "run" / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(result.rows) == 2
    for row in rows:
        assert 0 < float(row["memory_share"]) <= 1
        assert 0 <= float(row["memory_entropy"]) <= 1
        assert float(row["memory_kl"]) >= 0


def test_without_a_memory_bank_its_columns_are_empty(make_histories, ring, tmp_path: Path):
    histories = make_histories(ring(30, 20, 10, 20))
    run_of(model_of("elastic", histories.n_items), histories, tmp_path / "run")
    with (tmp_path / "run" / "log.csv").open() as file:
        for row in csv.DictReader(file):
            assert row["memory_share"] == row["memory_entropy"] == row["memory_kl"] == ""
