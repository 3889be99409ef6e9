"""What a fit reports: to its caller, to a display, its status while it runs, and its result."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from longrec.artifact.training_log import ValidationRow
from longrec.config.training import ClockName, TrainConfig
from longrec.models import Model

CLOCKS: Mapping[ClockName, Callable[[], float]] = {
    "wall": time.perf_counter,
    "processor": time.process_time,
}
"""What counts the seconds of a training, by the setting `clock`."""


@dataclass
class FitStatus:
    """Where a fit stands: everything besides tensors that a checkpoint holds."""

    epoch: int = 0
    step: int = 0  # of the epoch, the next to do
    total_steps: int = 0
    events: int = 0  # read so far
    seconds: float = 0.0
    loss_sum: float = 0.0  # over the targets since the last validation
    loss_events: int = 0
    best: float = -1.0
    best_epoch: int = 0
    worse: int = 0
    stop: str = ""
    precision: str = ""  # of products, chosen before the first step
    rows: list[ValidationRow] = field(default_factory=list)

    @property
    def begun(self) -> int:
        """Epochs begun: that in which time was up counts."""
        return self.epoch + (self.step > 0)

    @property
    def loss(self) -> float | None:
        """Mean loss since the last validation, None before any step."""
        return self.loss_sum / self.loss_events if self.loss_events else None


@dataclass(frozen=True)
class Progress:
    """How far a training is after an epoch: what `on_epoch` of `longrec.train` is called with.

    Attributes
    ----------
    model : the model's name.
    settings : (key, value) of all settings of the model and of training; `dict` of it is a mapping.
    final : whether this is the run on all events that serves, which has no validation.
    epoch, step : epochs and steps done; 0 where the weights of a warm start were validated.
    seconds, events : of the whole training so far, and events that it read.
    loss : mean training loss since the validation before; None before the first step.
    ndcg10, hr10 : of the validation that followed this epoch, as served; None without one.
    best_ndcg10, best_epoch : the best validation so far, and its epoch; None and 0 without one.
    stop : why the training ends here, "converged" or the like (`stop` of its provenance); "" where
        it goes on.
    """

    model: str
    settings: tuple[tuple[str, Any], ...]
    final: bool
    epoch: int
    step: int
    seconds: float
    events: int
    loss: float | None
    ndcg10: float | None
    hr10: float | None
    best_ndcg10: float | None
    best_epoch: int
    stop: str


OnEpoch = Callable[[Progress], object]
"""Called after every epoch; where it returns True, training ends there."""


@dataclass(frozen=True)
class Report:
    """What a progress display gets after a step or a validation.

    Attributes
    ----------
    status : where the fit stands.
    steps : of this epoch.
    loss : of the last step, or the mean since the last validation.
    events_per_second : of the whole fit so far.
    validating : the share of a validation that is done; None outside of one.
    """

    status: FitStatus
    steps: int
    loss: float | None
    events_per_second: float
    validating: float | None = None


Show = Callable[[Report], None]


@dataclass(frozen=True)
class FitResult:
    """How a fit ended.

    Attributes
    ----------
    stop : "converged", "max_epochs", "max_minutes", "on_epoch" (which returned True) or "counted".
    converged : whether the validation metric had stopped improving (counting always has).
    epochs, seconds, events : work done; events are those read.
    rows : the log.
    best_epoch : epochs begun when the weights that were kept were validated; one that the end of
        the time cut short counts.
    validation : metrics of these weights, as served: "served/ndcg@10" and "served/hr@10"; empty
        without validation targets.
    policy : why: "exclude_seen", "decided" ("validation", "setting" or "default"), and of the
        validation targets "repeats", their share, "ndcg10_hiding" and "ndcg10_showing".
    dropped : training events that the context left out.
    precision : type of products, "float32" or "bfloat16"; "" where there were none.
    """

    stop: str
    converged: bool
    epochs: int
    seconds: float
    events: int
    rows: list[ValidationRow]
    best_epoch: int
    validation: dict[str, float]
    policy: dict[str, Any]
    dropped: int
    precision: str = ""


def asks_to_stop(answer: object) -> bool:
    """Whether what `on_epoch` returned ends the training: True does, and nothing else."""
    return isinstance(answer, bool | np.bool_) and bool(answer)


def settings_of(model: Model, config: TrainConfig) -> tuple[tuple[str, Any], ...]:
    """All settings of a model and of training, by their keys."""
    return tuple((asdict(model.config) | asdict(config)).items())


def or_none(value: float) -> float | None:
    """None for what is not a number, where nothing was validated."""
    return None if np.isnan(value) else value
