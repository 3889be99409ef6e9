"""Two processes fit a model as one does with the same batches, to rounding."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forking import run_code
from models.small_models import SEQUENCE, make, sequences
from safetensors.torch import load_file
from small_histories import tiny_histories, walks
from training.processes_child import fit_all

from longrec.data.batches import TrainingData
from longrec.data.sampling import Masking, Prefixes
from longrec.mixers import Context
from longrec.mixers.product_keys import SPARSE_ROWS
from longrec.models import MODELS, SequenceModel, build_model
from longrec.training.losses import binary_cross_entropy
from longrec.training.meeting import meeting_place
from longrec.training.objective import Objective, _scores, minimised
from longrec.training.optimiser import Optimiser
from longrec.training.processes import ALONE, Processes

CHILD = "from training.processes_child import main; main()"
TWO = [Processes(rank, 2) for rank in range(2)]


@pytest.mark.parametrize("number", [1, 2, 3, 7])
def test_parts_are_all_rows_once_and_even(number):
    for rows in range(20):
        parts = [np.arange(rows)[Processes(rank, number).part(rows)] for rank in range(number)]
        assert np.concatenate(parts).tolist() == list(range(rows))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("sampling", [None, Masking(0.3, 0.1), Prefixes(2)])
def test_parts_of_a_batch_are_its_rows(make_histories, sampling):
    """Whichever events are hidden or drawn, and in windows, whose states stay with their rows."""
    rows = walks(23, 9, 2, 40)
    times = [[n * n * 100 for n in range(len(row))] for row in rows]
    histories = make_histories(rows, times, 9)
    data = TrainingData(histories, histories.offsets[1:], None, 8, 60, 3, sampling)
    epoch = data.epoch(1)
    empty = 0
    for step in range(len(epoch)):
        batch, parts = epoch.batch(step), [epoch.batch(step, p.part) for p in TWO]
        begin = 0
        for part in parts:
            own, width = slice(begin, begin + len(part.items)), part.items.shape[1]
            begin, empty = own.stop, empty + (len(part.items) == 0)
            for name in ("items", "targets", "times"):
                mine, whole = getattr(part, name), getattr(batch, name)[own]
                assert torch.equal(mine, whole[:, :width])
            assert not batch.targets[own, width:].any()
            assert torch.equal(part.lengths, batch.lengths[own])
            assert part.carries == batch.carries
            if batch.continues is not None:
                assert part.continues.tolist() == list(range(len(part.items)))
        assert begin == len(batch.items)
    assert empty  # a batch of one row leaves one process without


def test_one_process_does_nothing():
    x = torch.arange(3.0)
    assert ALONE.all(x) is x
    assert ALONE.sums(1, 2.5) == (1, 2.5) == ALONE.of_first(1, 2.5)
    assert ALONE.add_up_rows(x, x)[0] is x
    assert ALONE.document_of_first({"a": 1}) == {"a": 1}


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_weights_in_a_low_precision_are_refused(kind):
    from longrec.config.training import TrainConfig
    from longrec.core.errors import LongrecError

    model = build_model("hydrarec", MODELS["hydrarec"].config_class(dim=8, layers=1), 9)
    model.items.data = model.items.data.to(kind)
    with pytest.raises(LongrecError, match=f"items is {kind}.*float32 and set precision"):
        Optimiser(model, model, TrainConfig())


@pytest.mark.parametrize("missing", ["norm.weight.exp_avg", "norm.weight.exp_avg_sq", None])
def test_missing_moments_are_refused(missing):
    from longrec.config.training import TrainConfig

    model = build_model("hydrarec", MODELS["hydrarec"].config_class(dim=8, layers=1), 9)
    optimiser = Optimiser(model, model, TrainConfig())
    tensors = optimiser.tensors()
    gone = [name for name in tensors if name == missing or (missing is None and "norm" in name)]
    for name in gone:
        del tensors[name]
    with pytest.raises(ValueError, match=r"the optimiser's state, parameter .*norm"):
        optimiser.load(tensors)


@pytest.mark.slow
@pytest.mark.parametrize("name", SEQUENCE)
def test_gradients_of_parts_add_up_to_those_of_the_batch(name):
    """A loss is a mean over targets, and no row of a batch changes what another one gives."""
    model = make(name, dropout=0.0).train()
    assert isinstance(model, SequenceModel)
    items, times = sequences(4, 12)
    masked = items % 3 == 0 if model.targets == "masked" else None
    targets, negatives = items.roll(-1, 1), torch.arange(1, 6)
    objective = Objective(lambda: negatives, lambda *x: binary_cross_entropy(*_scores(*x[:4])))

    def gradients(*parts: slice) -> dict[str, torch.Tensor]:
        for part in parts:
            hidden = None if masked is None else masked[part]
            lengths = torch.full((len(items[part]),), items.shape[1])
            h = model.hidden(items[part], Context(lengths=lengths, times=times[part]), hidden)
            own = targets[part].flatten()
            loss = minimised(objective, model, h.flatten(0, 1), own, negatives, {})
            (loss * (len(own) / targets.numel())).backward()
        found = {n: p.grad.to_dense() for n, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        return found

    whole, parts = gradients(slice(0, 4)), gradients(slice(0, 1), slice(1, 4))
    assert whole.keys() == parts.keys()
    for key, x in whole.items():
        torch.testing.assert_close(parts[key], x, rtol=1e-7, atol=1e-10, msg=key)


# ---- two processes


def jobs_of(folder: Path) -> dict[str, dict[str, Any]]:
    rows = walks(16, 25, 2, 40)
    times = [[n * n * 100 for n in range(len(row))] for row in rows]
    few = tiny_histories(folder / "few", rows, times, 25).path
    many = tiny_histories(folder / "many", rows, times, 3000).path
    by_rows = {"negatives": 20, "weight_decay": 0.1}

    def job(name: str, model: dict[str, Any], histories: Path = few, **more: Any) -> dict[str, Any]:
        rest = {key: more.pop(key) for key in ("stop_at", "end_after", "teachers") if key in more}
        training = {"max_epochs": 2, "batch_tokens": 200, "window": 16, "warmup_steps": 5}
        training |= {"learning_rate": 1e-2, "checkpoint_minutes": 60.0, "precision": "float32"}
        model = {"dim": 8, "layers": 2, "ffn_dim": 16, "dropout": 0.0} | model
        job = {"histories": str(histories), "name": name, "model": model}
        return job | {"training": training | more} | rest

    slots = {"memory_slots": SPARSE_ROWS}
    return {
        "windows": job("elastic", {}, workers=2),
        "taught": job("elastic", {}, teachers=["elastic", "lrurec"]),
        "rows": job("elastic", {}, many, loss="sampled", **by_rows),
        "rows of two tables": job("bert4rec", {}, many, loss="gbce", context=25, **by_rows),
        "a bias and two interests": job("two-interests", {}, many, loss="sampled", **by_rows),
        "pairs": job("target-aware", {}, many, loss="bce", **by_rows),
        "bank": job("elastic-paper", slots, mask_share=0.3),
        "prefixes": job("hydrarec-bidirectional", {"targets": "last"}, prefixes=2),
        "one row a batch": job("elastic", {}, loss="bce", negatives=5, batch_tokens=1),
        "ended": job("sasrec", {}, end_after=1, max_epochs=4),
        "not finite": job("hydrarec", {}, learning_rate=1e200, max_epochs=20),
        # in the midst of a group whose states are carried on
        "from one": job("elastic", {}, checkpoint_minutes=1e-9),
        "rows from one": job(
            "elastic", {}, many, loss="sampled", checkpoint_minutes=1e-9, **by_rows
        ),
        "to one": job("elastic", {}, checkpoint_minutes=1e-9, stop_at=7),
        "rows to one": job("elastic", {}, many, loss="sampled", checkpoint_minutes=1e-9, **by_rows)
        | {"stop_at": 7},
    }


class Fits:
    """The same jobs done by one process and by two."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.jobs = folder, jobs_of(folder)
        self.names = list(self.jobs)
        halves = [
            self.placed(name, "two") | {"stop_at": 7} for name in ("from one", "rows from one")
        ]
        fit_all(halves, folder / "half")
        store, shared = meeting_place(2)
        jobs = [self.placed(name, "two") for name in self.names]
        children = [
            run_code(
                *(CHILD, json.dumps(jobs), folder / "two"),
                env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank in range(2)
        ]
        alone = {
            name: {k: x for k, x in job.items() if k != "stop_at"}
            for name, job in self.jobs.items()
        }
        fit_all(
            [alone[name] | {"run": self.run(name, "one")} for name in self.names], folder / "one"
        )
        assert [child.wait() for child in children] == [0, 0]
        del store
        rest = [name for name in self.names if name.endswith("to one")]
        fit_all([alone[name] | {"run": self.run(name, "two")} for name in rest], folder / "rest")
        self.told = {
            who: json.loads((folder / f"{who}.json").read_text())
            for who in ("one-0", "two-0", "two-1")
        }
        self.told["rest"] = json.loads((folder / "rest-0.json").read_text())
        self.rest = rest

    def run(self, name: str, who: str) -> str:
        return str(self.folder / f"{name}-{who}")

    def placed(self, name: str, who: str) -> dict[str, Any]:
        return self.jobs[name] | {"run": self.run(name, who)}

    def of(self, who: str, name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        number = (self.rest if who == "rest" else self.names).index(name)
        path = "rest-0" if who == "rest" else who
        return load_file(self.folder / f"{path}-{number}.safetensors"), self.told[who][number]


@pytest.fixture(scope="module")
def fits(tmp_path_factory):
    return Fits(tmp_path_factory.mktemp("processes"))


def same(one, two) -> None:
    """Weights, losses step by step, and the log, but for rounding and the clock."""
    (weights, told), (others, other) = one, two
    assert weights.keys() == others.keys()
    for name, x in weights.items():
        torch.testing.assert_close(others[name], x, rtol=1e-7, atol=1e-9, msg=name)
    last = min(len(told["losses"]), len(other["losses"]))
    assert last
    np.testing.assert_allclose(told["losses"][-last:], other["losses"][-last:], rtol=1e-8)
    mine, others = ({**t["result"], "rows": []} for t in (told, other))
    for key in ("epochs", "events", "stop", "best_epoch", "dropped", "converged"):
        assert mine[key] == others[key], key
    rows = [[dict(row) for row in t["result"]["rows"]] for t in (told, other)]
    assert len(rows[0]) == len(rows[1])
    for row, found in zip(*rows, strict=True):
        for key in row.keys() - {"seconds"}:
            if isinstance(row[key], float):
                assert row[key] == pytest.approx(found[key], rel=1e-9, nan_ok=True), key
            else:
                assert row[key] == found[key], key


BY_ROWS = ["rows", "rows of two tables", "a bias and two interests", "pairs"]
TOGETHER = ["windows", "taught", *BY_ROWS, "bank", "prefixes", "one row a batch", "ended"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TOGETHER, "from one", "rows from one"])
def test_two_processes_are_as_one(fits, name):
    same(fits.of("one-0", name), fits.of("two-0", name))
    weights, others = fits.of("two-0", name)[0], fits.of("two-1", name)[0]
    for key, x in weights.items():
        assert torch.equal(others[key], x), key  # to the last bit


@pytest.mark.slow
@pytest.mark.parametrize("name", ["to one", "rows to one"])
def test_one_goes_on_with_what_two_began(fits, name):
    assert fits.of("two-0", name)[1]["result"] == {"stopped": True}
    same(fits.of("one-0", name), fits.of("rest", name))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*BY_ROWS, "rows from one"])
def test_no_process_holds_a_table_whole_while_it_trains(fits, name):
    for rank in (0, 1):
        assert fits.of(f"two-{rank}", name)[1]["held"] <= 1501
    assert fits.of("one-0", name)[1]["held"] == 3001


@pytest.mark.slow
def test_rank_0_alone_writes_and_decides(fits):
    log = Path(fits.run("windows", "two"), "log.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in log] == ["epoch", "1", "2"]
    for rank in (0, 1):
        result = fits.of(f"two-{rank}", "ended")[1]["result"]
        assert (result["stop"], result["epochs"]) == ("on_epoch", 1)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_all(fits):
    for rank in (0, 1):
        assert "lower learning_rate" in fits.of(f"two-{rank}", "not finite")[1]["result"]["error"]
