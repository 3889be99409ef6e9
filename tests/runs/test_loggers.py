"""Loggers write what a training told, and say which extra they need."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

import longrec
from longrec.core.errors import UsageError
from longrec.training.progress import Progress

ABOUT = {"model": "elastic", "settings": (("dim", 8), ("cut", None)), "final": False}
FIRST = Progress(
    **ABOUT, epoch=1, step=9, seconds=2.0, events=90, loss=4.5, ndcg10=None, hr10=None,
    best_ndcg10=None, best_epoch=0, stop="",
)  # fmt: skip
LAST = Progress(
    **ABOUT, epoch=2, step=18, seconds=4.0, events=180, loss=4.0, ndcg10=0.25, hr10=0.5,
    best_ndcg10=0.25, best_epoch=2, stop="max_epochs",
)  # fmt: skip
WANTED = {
    "train/loss": [(1, 4.5), (2, 4.0)],
    "train/seconds": [(1, 2.0), (2, 4.0)],
    "train/events": [(1, 90.0), (2, 180.0)],
    "validation/ndcg10": [(2, 0.25)],
    "validation/hr10": [(2, 0.5)],
}


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_an_extra_that_is_missing_is_named(name, monkeypatch, tmp_path):
    for module in ("torch.utils.tensorboard", "tensorboard", "mlflow"):
        monkeypatch.setitem(sys.modules, module, None)
    make = {
        "tensorboard": lambda: longrec.TensorBoardLogger(tmp_path),
        "mlflow": longrec.MLflowLogger,
    }[name]
    with pytest.raises(UsageError, match=rf"pip install 'longrec\[{name}\]'"):
        make()


def test_tensorboard_reads_what_was_logged(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = longrec.TensorBoardLogger(tmp_path / "logs")
    log(FIRST)
    log(LAST)
    found = EventAccumulator(str(tmp_path / "logs")).Reload()
    scalars = {
        tag: [(one.step, one.value) for one in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }
    assert scalars == WANTED
    [text] = found.Tensors("settings/text_summary")
    assert b"| dim | 8 |" in text.tensor_proto.string_val[0]


class FakeMLflow(SimpleNamespace):
    """The functions of MLflow that a logger calls, and what they were given."""

    def __init__(self, active: bool) -> None:
        self.run, self.calls = "theirs" if active else None, []

    def active_run(self):
        return self.run

    def start_run(self, run_name):
        self.run = run_name
        self.calls.append(("start", run_name))

    def end_run(self):
        self.run = None
        self.calls.append(("end",))

    def set_experiment(self, name):
        self.calls.append(("experiment", name))

    def log_params(self, parameters):
        self.calls.append(("params", parameters))

    def log_metrics(self, numbers, step):
        self.calls.append((step, numbers))

    def set_tag(self, key, value):
        self.calls.append((key, value))


@pytest.mark.parametrize("active", [True, False])
def test_mlflow_gets_a_run_of_its_own_or_the_active_one(active, monkeypatch):
    fake = FakeMLflow(active)
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    log = longrec.MLflowLogger(experiment="shop", run_name="mine")
    log(FIRST)
    log(LAST)
    inner = [
        ("params", {"model": "elastic", "dim": 8, "cut": None}),
        (1, {"train/loss": 4.5, "train/seconds": 2.0, "train/events": 90.0}),
        (2, {name: values[-1][1] for name, values in WANTED.items()}),
        ("stop", "max_epochs"),
    ]
    own = [("experiment", "shop"), ("start", "mine")]
    assert fake.calls == (inner if active else [*own, *inner, ("end",)])
    assert fake.run == ("theirs" if active else None)


def test_mlflow_reads_what_was_logged(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    log = longrec.MLflowLogger(tracking_uri=(tmp_path / "mlruns").as_uri())
    with mlflow.start_run() as run:
        log(FIRST)
        log(LAST)
    found = mlflow.MlflowClient()
    about = found.get_run(run.info.run_id).data
    assert about.params == {"model": "elastic", "dim": "8", "cut": "None"}
    assert about.tags["stop"] == "max_epochs"
    for name, values in WANTED.items():
        history = found.get_metric_history(run.info.run_id, name)
        assert [(one.step, one.value) for one in history] == values
