"""A caller's generators are its own: longrec seeds and draws, and leaves them as they were."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

import longrec
from longrec.core.generators import generators_kept, seed_generators
from longrec.simulator.config import SimulationConfig
from longrec.simulator.simulate import simulate

TINY = {"dim": 8, "layers": 1, "ffn_dim": 8, "max_epochs": 1, "progress": False}


def states() -> tuple[bytes, str, str]:
    return (
        torch.get_rng_state().numpy().tobytes(),
        str(np.random.get_state()),  # noqa: NPY002
        str(random.getstate()),
    )


@contextmanager
def untouched() -> Iterator[None]:
    before = states()
    yield
    assert [a == b for a, b in zip(before, states(), strict=True)] == [True] * 3


@pytest.fixture
def histories(make_histories, ring):
    rows = ring(15, 20, 3, 12)
    return make_histories(rows, [[60 * n for n in range(len(row))] for row in rows], 20)


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("hydrarec", {}),
        ("elastic", {"loss": "sampled", "negatives": 5, "heads": 1, "experts": 2}),
        ("bert4rec", {"heads": 1}),
    ],
)
def test_training_and_what_follows_it(tmp_path, histories, model, settings):
    with untouched():
        recommender = longrec.train(histories, model, tmp_path / "run", **TINY, **settings)
    with untouched():
        again = longrec.load(tmp_path / "run")
        again.recommend(users=["user00000"], data=histories, k=3)
        longrec.evaluate(recommender, histories)
        again.with_items([5])
    if model == "hydrarec":
        with untouched(), again.open_stream(f"lmdb://{tmp_path / 'store'}") as stream:
            stream.observe("user", 1003, 100)
            stream.recommend("user", 3)


FRESH = """
import sys, random, numpy as np, torch, longrec
random.seed(7), np.random.seed(5), torch.manual_seed(3)
expected = random.random(), np.random.rand(), torch.rand(1)
random.seed(7), np.random.seed(5), torch.manual_seed(3)
longrec.train(sys.argv[1], "hydrarec", dim=8, ffn_dim=8, max_epochs=1, progress=False)
assert (random.random(), np.random.rand(), torch.rand(1)) == expected
"""


@pytest.mark.slow
def test_a_fresh_process_whose_imports_draw_too(histories):
    run = subprocess.run([sys.executable, "-c", FRESH, str(histories.path)], capture_output=True)
    assert run.returncode == 0, run.stderr.decode()


def test_a_callers_state_does_not_change_a_training(histories):
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        found.append(longrec.train(histories, "hydrarec", **TINY).model.state_dict())
    for name, tensor in found[0].items():
        assert torch.equal(tensor, found[1][name]), name


def test_a_training_that_fails_leaves_them_too(histories):
    with untouched(), pytest.raises(longrec.LongrecError, match="nan"):
        longrec.train(histories, "hydrarec", **TINY, on_epoch=_spoil)


def _spoil(progress: longrec.Progress) -> None:
    raise longrec.LongrecError("nan")


def test_the_simulator(tmp_path):
    with untouched():
        simulate(SimulationConfig(users=5, items=40, seed=3))


def test_numbers_are_those_after_torchs_own_seed():
    with generators_kept():
        torch.manual_seed(5)
        wanted = torch.rand(3), torch.randint(9, (3,)), torch.empty(3).random_()
        seed_generators(5)
        found = torch.rand(3), torch.randint(9, (3,)), torch.empty(3).random_()
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
