"""benchmarks/peers without the peers: its ranking is longrec's, and its scripts run."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from forking import run_code
from hypothesis import given, settings
from hypothesis import strategies as st
from small_histories import MakeHistories, tiny_histories, walks

import longrec
from longrec.data.histories import Histories
from longrec.data.splits import leave_one_out
from longrec.evaluation.rank_targets import rank_targets
from longrec.recommender import Recommender

PEERS = Path(__file__).parents[1] / "benchmarks" / "peers"


def load(path: str) -> ModuleType:
    """A script of benchmarks/peers as a module."""
    spec = importlib.util.spec_from_file_location(f"peers_{Path(path).stem}", PEERS / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


protocol, throughput, encoder, parity = map(
    load, ("rectools/protocol.py", "throughput.py", "linrec/encoder.py", "parity.py")
)
FIXTURES = Path(__file__).parent / "fixtures" / "peers"
"""What the peers' own classes gave, of random weights: written by benchmarks/peers/*/outputs.py."""
Score = Callable[[torch.Tensor], torch.Tensor]


def last_item(histories: Histories) -> tuple[Recommender, Score]:
    """A model that counts, whose many scores of 0 are ties, and its scores of padded rows."""
    recommender = longrec.train(histories, model="last-item", progress=False)
    model = recommender.model

    @torch.inference_mode()
    def score(read: torch.Tensor) -> torch.Tensor:
        return model.score(model.encode(read[:, -1:])[:, -1])

    return recommender, score


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
def test_ranks_are_longrecs(
    tmp_path_factory: pytest.TempPathFactory, seed: int, users: int
) -> None:
    """Validation and test, with ties, repeats, short histories, in more than one batch."""
    protocol.USERS_AT_ONCE = 7
    rows = walks(users, 15, 1, 12, seed) + [[1, 2, 3]] * 2
    histories = tiny_histories(tmp_path_factory.mktemp("h") / "histories", rows, n_items=15)
    recommender, score = last_item(histories)
    split = leave_one_out(histories)
    log = protocol.Log(histories.items.astype(np.int64), histories.offsets)
    assert np.array_equal(log.evaluated, split.test.users)
    trained = np.concatenate(
        [np.arange(a, b) for a, b in zip(histories.offsets, split.train_end, strict=False)]
    )
    assert np.array_equal(log.training()[0], trained)
    for place, targets in ((protocol.TEST, split.test), (protocol.VALIDATION, split.validation)):
        expected = rank_targets(recommender.scorer, histories, targets)["rank"]
        found = protocol.ranks(log, place, np.arange(16), 5, score)
        assert found.tolist() == expected.to_list()


def test_an_item_without_a_vector_is_not_read_and_misses(make_histories: MakeHistories) -> None:
    log = protocol.Log(np.array([1, 3, 2, 1, 2, 3]), np.array([0, 3, 6]))
    inside = np.array([0, 1, 2, 0])  # item 3 is unknown
    read: list[list[list[int]]] = []

    def score(rows: torch.Tensor) -> torch.Tensor:
        read.append(rows.tolist())
        return torch.tensor([[9.0, 1.0, 2.0]] * len(rows))

    assert protocol.ranks(log, protocol.TEST, inside, 3, score).tolist() == [1, 4]
    assert read == [[[0, 0, 1], [0, 1, 2]]]


def test_metrics_are_by_definition() -> None:
    found = protocol.metrics(np.array([1, 3, 10, 11]))
    assert found["ndcg@10"] == pytest.approx((1 + 1 / 2 + 1 / np.log2(11)) / 4)
    assert found["hr@10"] == 3 / 4


def test_a_log_is_read_in_its_order_with_ties_as_they_stand(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"u": ["b", "a", "b", "a", "a"], "i": [7, 9, 5, 7, 5], "t": [2, 1, 1, 0, 1]}
    )
    frame.write_parquet(tmp_path / "log.parquet")
    log = protocol.read_log(tmp_path / "log.parquet", "u", "i", "t")
    assert log.items.tolist() == [2, 3, 1, 1, 2]
    assert log.offsets.tolist() == [0, 3, 5]


def test_steps_trains_and_counts_targets(
    make_histories: MakeHistories,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = make_histories(walks(60, 30, 5, 20)).path
    chosen = ["--seconds", "0.3", "--set", "batch_tokens=50", "--set", "dim=8"]
    monkeypatch.setattr(sys, "argv", ["steps.py", str(path), "hydrarec", *chosen])
    load("steps.py").main()
    found = json.loads(capsys.readouterr().out)
    assert found["settings"] == {"batch_tokens": "50", "dim": "8"}
    assert found["steps"] > 0
    assert found["targets_per_second"] == pytest.approx(found["targets"] / found["seconds"])
    # Every event of a batch but the first of each history is a target.
    assert 0 < found["targets"] < 50 * found["steps"]
    assert found["before_mib"] <= found["peak_mib"]


def test_throughput_compares_with_the_peers_best() -> None:
    def cell(targets: int) -> dict[str, float]:
        return {"targets": targets, "seconds": 2, "cpu_seconds": 1, "peak_mib": 9, "before_mib": 5}

    found = {
        "RecTools SASRec, batch 32": [cell(100), cell(300), cell(200)],
        "RecTools SASRec, batch 128": [cell(100)],
        "longrec elastic": [cell(1000), cell(800)],
    }
    *_, slow, own = throughput.table(found).splitlines()
    assert slow.startswith("| RecTools SASRec, batch 128 | 50 (50 to 50) | 0.50 |")
    assert (
        own == "| longrec elastic | 450 (400 to 500) | 4.50 | 900 (800 to 1,000) | 4.50 | 9 | 5 |"
    )


LAYERS = """
from matplotlib import pyplot
from recbole.utils import FeatureSource, FeatureType
from torch import nn

class TransformerEncoder(nn.Module):
    def __init__(self, n_layers, hidden_size, **settings):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(hidden_size, hidden_size) for _ in range(n_layers))

    def forward(self, x, mask):
        return [x := layer(x) for layer in self.layers]
"""


CHILD = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("encoder", sys.argv.pop(1))
encoder = importlib.util.module_from_spec(spec)
spec.loader.exec_module(encoder)
encoder.SECONDS = 0.01
encoder.main()
"""


def test_encoders_are_timed_from_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_forked(command: list[str], *, check: bool, **options: Any) -> Any:
        """`subprocess.run` of Python on a script, forked."""
        child = run_code(CHILD, *command[1:], **options)
        printed = child.communicate(60)[0]
        assert child.returncode == 0
        return subprocess.CompletedProcess(command, 0, printed)

    monkeypatch.setattr(encoder.subprocess, "run", run_forked)
    (tmp_path / "layers.py").write_text(LAYERS)
    asked = ["--models", "linrec", "--lengths", "64", "--repeats", "1"]
    more = ["--source", str(tmp_path), "--out", str(tmp_path / "cells")]
    monkeypatch.setattr(sys, "argv", ["encoder.py", *asked, *more])
    encoder.main()
    [cell] = json.loads((tmp_path / "cells").read_text())
    assert (cell["length"], cell["model"], cell["pass"]) == (64, "linrec", "forward+backward")
    assert 0 < cell["seconds_min"] <= cell["seconds_median"] <= cell["seconds_max"]
    assert cell["peak_bytes"] >= 0
    assert capsys.readouterr().out.startswith("| events | linrec |")


@pytest.mark.parametrize("name", [name for name in encoder.MODELS if name != "linrec"])
def test_longrecs_encoders_read_the_length_asked_for(name: str) -> None:
    model, encode = encoder.encoder(name, Path(), 300)
    assert model.training
    assert encode(torch.randint(1, encoder.N_ITEMS + 1, (1, 300))).shape == (1, 300, encoder.DIM)


def test_a_table_says_how_much_longer_linrec_takes() -> None:
    def cell(model: str, seconds: float) -> dict[str, object]:
        times = {f"seconds_{key}": seconds for key in ("median", "min", "max")}
        return {"model": model, "length": 4096, "peak_bytes": 2**20, **times}

    table = encoder.table([cell("elastic", 0.5), cell("linrec", 1.0)], ["linrec", "elastic"])
    assert table.endswith("| 500.0 (500.0 to 500.0) ms, 1 MiB, 2.00x |")


def test_a_source_without_the_code_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"layers\.py does not exist: --source"):
        encoder.official(tmp_path)


@pytest.mark.parametrize("name", sorted(path.stem for path in FIXTURES.glob("*.npz")))
def test_systems_are_those_of_maintained_libraries(name: str) -> None:
    """With a peer's weights; where it departs from its paper, the difference is seen and named."""
    found = list(parity.COMPARISONS[name](parity.Given(FIXTURES / f"{name}.npz")))
    assert found
    for one in found:
        assert (one.difference < parity.SAME) == (not one.because), one
        assert one.difference > 0.01 or not one.because, one


@pytest.mark.parametrize(
    "script", ["rectools/train.py", "rectools/outputs.py", "recbole/outputs.py"]
)
def test_the_peers_own_scripts_compile(script: str) -> None:
    """They run in other environments only."""
    path = PEERS / script
    compile(path.read_text(encoding="utf-8"), str(path), "exec")
