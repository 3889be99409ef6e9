"""What a fit reports: a row per validation, its status while it runs, and its result."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from longrec.core.files import write_file


@dataclass
class ValidationRow:
    """One validation: a row of log.csv.

    Attributes
    ----------
    epoch, step : epochs and steps done before it.
    seconds : of the whole fit so far.
    events : events read by training so far.
    loss : mean training loss since the row before; None before the first step.
    ndcg10, hr10 : of the validation targets, as served under the policy of this row; not a number
        where there are none.
    exclude_seen : that policy: whether items that a user has seen are hidden.
    ndcg10_hiding, ndcg10_showing : as served with seen items hidden, and shown.
    repeats, targets : share of the validation targets whose item is in their own input, and how
        many targets there were.
    memory_share, memory_entropy, memory_kl : how evenly the validation used the slots of memory
        banks (`longrec.mixers.product_keys.Usage`); None in a model without one.
    """

    epoch: int
    step: int
    seconds: float
    events: int
    loss: float | None
    ndcg10: float
    hr10: float
    exclude_seen: bool = True
    ndcg10_hiding: float = math.nan
    ndcg10_showing: float = math.nan
    repeats: float = 0.0
    targets: int = 0
    memory_share: float | None = None
    memory_entropy: float | None = None
    memory_kl: float | None = None


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


Progress = Callable[[Report], None]


@dataclass(frozen=True)
class FitResult:
    """How a fit ended.

    Attributes
    ----------
    stop : "converged", "max_epochs", "max_minutes" or "counted".
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


def write_log(path: Path, rows: list[ValidationRow]) -> None:
    """The log as CSV: one row per validation."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(ValidationRow.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(asdict, rows))
    write_file(path, text.getvalue())
