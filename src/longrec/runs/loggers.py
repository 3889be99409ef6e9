"""Trainings logged to TensorBoard or MLflow: what `on_epoch` of `longrec.train` may be.

Their packages are imported when a logger is made, and are extras: `longrec[tensorboard]`,
`longrec[mlflow]`. Both log the same numbers, by epoch, under the names of `longrec.Progress`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from longrec.core.arguments import check_path, check_text
from longrec.core.errors import UsageError
from longrec.training.progress import Progress


class TensorBoardLogger:
    """Log a training for TensorBoard: `longrec.train(…, on_epoch=TensorBoardLogger("logs/a"))`.

    `tensorboard --logdir logs` shows it. A run that is resumed goes on in the same curves.

    Parameters
    ----------
    folder : path
        Where the events of this run go; one folder for each run.

    Raises
    ------
    UsageError
        When the package is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = check_path("folder", folder)
        self._make = _imported("torch.utils.tensorboard", "tensorboard").SummaryWriter
        self._writer: Any = None

    def __call__(self, progress: Progress) -> None:
        """Log an epoch; the last one closes the file."""
        if self._writer is None:
            self._writer = self._make(str(self.folder))
            rows = "".join(f"| {key} | {value} |\n" for key, value in _settings(progress).items())
            self._writer.add_text("settings", f"| key | value |\n| --- | --- |\n{rows}")
        for name, value in _numbers(progress).items():
            self._writer.add_scalar(name, value, progress.epoch)
        self._writer.flush()
        if progress.stop:
            self._writer.close()
            self._writer = None


class MLflowLogger:
    """Log a training to MLflow: `longrec.train(…, on_epoch=MLflowLogger(experiment="shop"))`.

    It logs to the run that is active (`with mlflow.start_run():`), or else to one that it starts
    with the first epoch and ends with the last. Of a final run the training on all events has the
    names of its parameters and numbers begin with "final/".

    Parameters
    ----------
    experiment, run_name : str or None
        Of a run that it starts; None: MLflow's own.
    tracking_uri : str or None
        Of MLflow's server or store; None: as MLflow is set up.

    Raises
    ------
    UsageError
        When the package is not installed.
    """

    def __init__(
        self,
        experiment: str | None = None,
        run_name: str | None = None,
        tracking_uri: str | None = None,
    ) -> None:
        for name, text in (
            ("experiment", experiment),
            ("run_name", run_name),
            ("tracking_uri", tracking_uri),
        ):
            check_text(name, text)
        self._experiment, self._run_name = experiment, run_name
        self._mlflow = _imported("mlflow", "mlflow")
        if tracking_uri is not None:
            self._mlflow.set_tracking_uri(tracking_uri)
        self._began = self._own = False

    def __call__(self, progress: Progress) -> None:
        """Log an epoch."""
        mlflow, prefix = self._mlflow, "final/" if progress.final else ""
        if not self._began:
            self._began = True
            if mlflow.active_run() is None:
                if self._experiment is not None:
                    mlflow.set_experiment(self._experiment)
                mlflow.start_run(run_name=self._run_name)
                self._own = True
            parameters = {prefix + key: value for key, value in _settings(progress).items()}
            mlflow.log_params(parameters)
        numbers = {prefix + name: value for name, value in _numbers(progress).items()}
        mlflow.log_metrics(numbers, step=progress.epoch)
        if progress.stop:
            mlflow.set_tag(f"{prefix}stop", progress.stop)
            if self._own:
                mlflow.end_run()
            self._began = self._own = False


def _settings(progress: Progress) -> dict[str, Any]:
    return {"model": progress.model} | dict(progress.settings)


def _numbers(progress: Progress) -> Mapping[str, float]:
    """The numbers of an epoch that there are, under names that both packages take."""
    found = {
        "train/loss": progress.loss,
        "train/seconds": progress.seconds,
        "train/events": progress.events,
        "validation/ndcg10": progress.ndcg10,
        "validation/hr10": progress.hr10,
    }
    return {name: float(value) for name, value in found.items() if value is not None}


def _imported(module: str, package: str) -> Any:
    """A module of an extra that has the package's name."""
    try:
        return import_module(module)
    except ImportError as error:
        raise UsageError(
            f"this logger needs the package {package}: pip install 'longrec[{package}]'"
        ) from error
