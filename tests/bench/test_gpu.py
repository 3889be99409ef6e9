"""benchmarks/gpu/gpu.py in this process, on a CPU at tiny sizes; and how it trains on ML-1M."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "gpu"))

import gpu_ml1m
from gpu_timing import Cell

import gpu

EXPECTED = {"sasrec, FlashAttention", "hydrarec", "elastic, chunks"}


@pytest.mark.slow
def test_the_whole_plan_runs_in_small_on_a_cpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cells.json"
    cells = gpu.main(["--small", "--lengths", "16", "--json", str(path)])
    assert [Cell(**cell) for cell in json.loads(path.read_text())] == cells
    assert [cell.failed for cell in cells if cell.failed] == []
    assert {cell.part for cell in cells} == set(gpu.CAPS)
    for part in ("mixer", "model"):
        assert {cell.name for cell in cells if cell.part == part} >= EXPECTED
    assert all(cell.value > 0 for cell in cells if cell.value is not None)
    shown = capsys.readouterr().out
    assert "1.00x" in shown.split(", torch ")[-1], "the table comes last"


@pytest.mark.parametrize("part", ["mixer", "loss"])
def test_a_part_runs_in_small_on_a_cpu(part: str) -> None:
    cells = gpu.main(["--small", "--lengths", "16", "--parts", part])
    assert cells
    assert not any(cell.failed for cell in cells)


def test_an_error_in_one_part_leaves_what_was_measured_before(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(setting: Any) -> Any:
        yield Cell("loss", "the first", value=1.0)
        raise RuntimeError("no such kernel")

    monkeypatch.setitem(gpu.PARTS, "loss", breaks)
    with pytest.raises(SystemExit) as ended:
        gpu.main(["--small", "--parts", "loss"])
    assert ended.value.code == 1
    table = capsys.readouterr().out.split(", torch ")[-1]
    assert "the first" in table
    assert "RuntimeError: no such kernel" in table


def test_the_table_takes_the_faster_of_launches_and_graph() -> None:
    cells = [
        Cell("model", gpu.PEER, 8, 0.004),
        Cell("model", f"{gpu.PEER}, graph", 8, 0.003),
        Cell("model", "hydrarec", 8, 0.001),
        Cell("model", "hydrarec, graph", 8, failed="RuntimeError: not recorded"),
    ]
    shown = "\n".join(gpu.table(cells))
    assert "3.00x" in shown
    assert "not recorded" in shown


def _log(lengths: list[int], n_items: int = 9) -> gpu_ml1m.Log:
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    items = np.random.default_rng(0).integers(1, n_items + 1, bounds[-1])
    return gpu_ml1m.Log(items, bounds, n_items)


@given(lengths=st.lists(st.integers(4, 300), min_size=1, max_size=12), tokens=st.integers(1, 900))
def test_an_epoch_has_every_training_event_but_the_first_as_a_target_once(
    lengths: list[int], tokens: int
) -> None:
    log = _log(lengths)
    found, shapes = [], {}
    for width, rows in gpu_ml1m.batches(log, tokens, np.random.default_rng(1)):
        assert shapes.setdefault(width, rows.items.shape) == rows.items.shape, "shapes are few"
        for items, targets, length in zip(rows.items, rows.targets, rows.lengths, strict=True):
            n = int(length)
            assert not items[n:].any() and not targets[n:].any()  # noqa: PT018
            if n:
                found.append([*items[:n].tolist(), int(targets[n - 1])])
                assert items[1:n].tolist() == targets[: n - 1].tolist()
    wanted = [
        log.items[a : b - 2].tolist() for a, b in zip(log.bounds, log.bounds[1:], strict=False)
    ]
    assert sorted(found) == sorted(wanted)


class Scores(torch.nn.Module):
    """A model that scores items by their index, higher ones better."""

    def hidden(self, items: Tensor, ctx: Any) -> Tensor:
        return torch.ones(*items.shape, 1)

    def item_vectors(self) -> Tensor:
        return torch.tensor([[0.0], [1.0], [2.0], [3.0], [3.0], [5.0]])


def test_ndcg_filters_what_was_seen_and_ties_count_against() -> None:
    # Inputs 5, 1; target 3, which ties with 4: rank 2. Inputs 5, 4; target 4, seen itself: rank 2.
    log = gpu_ml1m.Log(np.array([5, 1, 3, 2, 5, 4, 4, 1]), np.array([0, 4, 8]), 5)
    found = gpu_ml1m.ndcg10(Scores(), log, "cpu")  # type: ignore[arg-type]
    assert found == pytest.approx(1 / math.log2(3))


@pytest.mark.slow
def test_a_log_is_read_in_its_own_order_and_trains(tmp_path: Path) -> None:
    events = [(u, (3 * u + n) % 30, n) for u in range(40) for n in range(3 + u % 20)]
    frame = pl.DataFrame(events, schema=["user_id", "item_id", "position"], orient="row")
    frame.sample(fraction=1.0, shuffle=True, seed=0).write_parquet(tmp_path / "log.parquet")
    log = gpu_ml1m.read_log(tmp_path / "log.parquet")
    assert log.lengths().min() >= 4
    assert (
        np.isin(np.diff(log.items), (1, -29))
        | np.isin(1 + np.arange(len(log.items) - 1), log.bounds)
    ).all()
    found = list(gpu_ml1m.train(tmp_path / "log.parquet", "cpu", target=0.6, small=True))
    assert [ndcg for _, ndcg in found] == sorted(ndcg for _, ndcg in found)
    assert found[-1][1] > found[0][1]
