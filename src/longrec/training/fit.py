"""Fitting a model: the loop, its state, and how it stops, is killed and goes on.

Every step seeds torch with (seed, epoch, step), and batches are functions of the same, so that a
run that was killed anywhere and resumed from its last checkpoint ends with the same numbers.
"""

from __future__ import annotations

import copy
import csv
import hashlib
import io
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import torch
from torch import Tensor

from longrec.data.batches import Batch, TrainingData
from longrec.data.histories import Histories
from longrec.data.splits import Split, Targets, training_events
from longrec.errors import DataError, LongrecError
from longrec.evaluation.ranking import rank_targets
from longrec.evaluation.summary import REPEATS_LEAD
from longrec.files import write_file
from longrec.metrics import MISS, summarise
from longrec.mixers import Context
from longrec.mixers.base import map_state
from longrec.models import CountingModel, Model, SequenceModel, UserState
from longrec.models.base import Block
from longrec.training.checkpoint import load_checkpoint, save_checkpoint
from longrec.training.config import TrainConfig
from longrec.training.objective import make_objective


@dataclass
class Row:
    """One validation: a row of log.csv."""

    epoch: int
    step: int
    seconds: float
    events: int
    loss: float
    ndcg10: float
    hr10: float


@dataclass
class Place:
    """Where a fit stands; everything besides tensors that a checkpoint holds."""

    epoch: int = 0
    step: int = 0  # of the epoch, the next to do
    total_steps: int = 0
    events: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    loss_events: int = 0
    best: float = -1.0
    best_epoch: int = 0
    worse: int = 0
    stop: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """What a progress display is told after a step or a validation."""

    place: Place
    steps: int
    loss: float
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
    epochs, seconds, events : work done.
    rows : the log.
    validation : metrics of the weights that were kept.
    dropped : training events that the context left out.
    """

    stop: str
    converged: bool
    epochs: int
    seconds: float
    events: int
    rows: list[Row]
    validation: dict[str, float]
    dropped: int


def fit(
    model: Model,
    histories: Histories,
    split: Split,
    config: TrainConfig,
    run: Path,
    resume: bool = False,
    progress: Progress | None = None,
) -> FitResult:
    """Train `model` in place and leave it with its best validated weights, in eval mode.

    Parameters
    ----------
    model : Model
    histories : Histories
    split : Split
        Training events and validation targets; test targets are not looked at.
    config : TrainConfig
    run : Path
        An existing folder for checkpoints and log.csv.
    resume : bool
        Go on from the run's last checkpoint, if it has one.
    progress : callable or None

    Raises
    ------
    LongrecError
        When there is nothing to train on, or the loss is not finite.
    """
    limits = [n for n in (config.context, model.max_length) if n is not None]
    context = min(limits, default=None)
    if isinstance(model, CountingModel):
        return _count(model, histories, split, config)
    assert isinstance(model, SequenceModel)
    if not model.causal or not all(cast(Block, block).mixer.causal for block in model.blocks):
        raise LongrecError(
            f"{type(model).__name__} sees later events, so that predicting each next item would "
            "train it to copy: only causal models can be trained with this loss"
        )
    window = config.window if model.streaming == "exact" else context or int(np.iinfo("i4").max)
    data = TrainingData(
        histories, split.train_end, context, window, config.batch_tokens, config.seed
    )
    if not data.targets:
        raise LongrecError(
            f"{histories.path}: no user has two training events under the split {split.name!r}, "
            "so there is nothing to train on"
        )
    return _Fit(model, data, split, config, run, progress).run(resume)


class _Fit:
    """The state of one fit and its loop."""

    def __init__(
        self,
        model: SequenceModel,
        data: TrainingData,
        split: Split,
        config: TrainConfig,
        run: Path,
        progress: Progress | None,
    ) -> None:
        self.model, self.data, self.config, self.folder = model, data, config, run
        self.progress, self.device, self.place = progress, model.device, Place()
        self.average = copy.deepcopy(model).eval().requires_grad_(False)
        self.best: dict[str, Tensor] = _copy(model)
        self.optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.objective = make_objective(config, data, self.device)
        self.validation = draw(split.validation, config.validation_users, config.seed)
        self.state: UserState | None = None
        self.saved = 0.0

    def run(self, resume: bool) -> FitResult:
        if resume:
            self.load()
        place, config = self.place, self.config
        began = time.perf_counter() - place.seconds
        self.saved = place.seconds
        # An interrupt may fall between an update and its count: only whole steps are saved.
        while not place.stop and place.epoch < config.max_epochs:
            if not self.run_epoch(began):
                break
            place.epoch, place.step = place.epoch + 1, 0
            last = place.epoch == config.max_epochs
            if place.epoch % config.validate_every == 0 or last:
                self.validate(began)
            self.save()
        if place.stop == "max_minutes" and place.loss_events:
            self.validate(began)
            self.save()
        self.model.load_state_dict(self.best)
        self.model.eval()
        stop = place.stop or "max_epochs"
        rows = [Row(**row) for row in place.rows]
        kept = next((row for row in rows if row.ndcg10 == place.best), None)
        return FitResult(
            stop=stop,
            converged=stop == "converged",
            epochs=place.epoch,
            seconds=place.seconds,
            events=place.events,
            rows=rows,
            validation={} if kept is None else {"ndcg@10": kept.ndcg10, "hr@10": kept.hr10},
            dropped=self.data.dropped,
        )

    def run_epoch(self, began: float) -> bool:
        """Train from the place reached to the epoch's end (True), or until time is up (False)."""
        place, config = self.place, self.config
        epoch = self.data.epoch(place.epoch)
        self.model.train()
        for batch in epoch.batches(place.step, config.workers):
            loss, events = self.step(batch.to(self.device))
            place.step, place.total_steps = place.step + 1, place.total_steps + 1
            place.events, place.loss_events = place.events + events, place.loss_events + events
            place.loss_sum += loss * events
            place.seconds = time.perf_counter() - began
            self.tell(len(epoch), loss)
            if config.max_minutes is not None and place.seconds > 60 * config.max_minutes:
                place.stop = "max_minutes"
                return False
            if place.seconds - self.saved > 60 * config.checkpoint_minutes:
                self.save()
        return True

    def step(self, batch: Batch) -> tuple[float, int]:
        """One update; the loss and the number of targets."""
        place, config = self.place, self.config
        torch.manual_seed(_seed(config.seed, place.epoch, place.step))
        for group in self.optimizer.param_groups:
            warm = min(1.0, (place.total_steps + 1) / max(config.warmup_steps, 1))
            group["lr"] = config.learning_rate * warm
        real = batch.targets > 0
        with self.precision():
            h = self.encode(batch)[real].float()
        loss = self.objective(self.model, h, batch.targets[real])
        value = float(loss.detach())
        if not np.isfinite(value):
            raise LongrecError(
                f"the loss is {value} at epoch {place.epoch}, step {place.step}; try a lower "
                f"learning_rate (now {config.learning_rate}) or clip (now {config.clip})"
            )
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        self.optimizer.step()
        # Early on, an average over few steps follows the weights more closely.
        decay = min(config.average, (1 + place.total_steps) / (10 + place.total_steps))
        torch._foreach_lerp_(
            list(self.average.parameters()),
            [p.detach() for p in self.model.parameters()],
            1 - decay,
        )
        return value, int(real.sum())

    def encode(self, batch: Batch) -> Tensor:
        """h (B, T, D), from the state of the window before where there is one."""
        ctx = Context(lengths=batch.lengths, times=batch.times)
        if batch.keep is None and not batch.carries:
            return self.model.encode(batch.items, ctx)
        keep = batch.keep
        if keep is None:
            state = self.model.initial_state(len(batch.items))
        else:
            assert self.state is not None, "a batch continues another, whose state is not here"
            state = map_state(lambda part: part[keep], self.state)
        h, state = self.model.prefill(batch.items, state, ctx)
        self.state = map_state(Tensor.detach, state) if batch.carries else None
        return h

    def precision(self) -> AbstractContextManager[Any]:
        wanted = self.config.precision
        if wanted == "auto":
            fast = self.device.type == "cuda" and torch.cuda.is_bf16_supported()
            wanted = "bfloat16" if fast else "float32"
        if wanted == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def validate(self, began: float) -> None:
        """Rank the validation targets with the averaged weights; keep them if they are best."""
        place = self.place
        self.data.histories.check()  # files that change under a run would give other events

        def tell(done: int, of: int) -> None:
            self.tell(1, place.loss_sum / max(place.loss_events, 1), done / of)

        ranks = rank_targets(
            self.average, self.data.histories, self.validation, self.data.context, tell
        )
        metrics = _metrics(ranks)
        place.seconds = time.perf_counter() - began
        row = Row(
            place.epoch,
            place.total_steps,
            round(place.seconds, 2),
            place.events,
            place.loss_sum / max(place.loss_events, 1),
            metrics["ndcg@10"],
            metrics["hr@10"],
        )
        place.rows.append(asdict(row))
        place.loss_sum, place.loss_events = 0.0, 0
        if not len(self.validation):
            self.best = _copy(self.average)  # nothing to choose by: the latest weights are kept
        elif metrics["ndcg@10"] > place.best:
            place.best, place.best_epoch, place.worse = metrics["ndcg@10"], place.epoch, 0
            self.best = _copy(self.average)
        else:
            place.worse += 1
            if place.worse >= self.config.patience:
                place.stop = "converged"
        write_log(self.folder / "log.csv", place.rows)
        self.tell(1, row.loss)

    def tell(self, steps: int, loss: float, validating: float | None = None) -> None:
        if self.progress is not None:
            rate = self.place.events / max(self.place.seconds, 1e-9)
            self.progress(Report(self.place, steps, loss, rate, validating))

    def save(self) -> None:
        """Write a checkpoint of everything that the next step depends on."""
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        for number, slots in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{k}": v for k, v in slots.items()}
        if self.state is not None:
            tensors |= {f"carried.{n}": part for n, part in enumerate(_leaves(self.state))}
        save_checkpoint(self.folder, tensors, asdict(self.place))
        self.saved = self.place.seconds

    def load(self) -> None:
        """Go to the last checkpoint, if there is one."""
        found = load_checkpoint(self.folder)
        if found is None:
            return
        tensors, state = found

        def part(name: str) -> dict[str, Tensor]:
            return {k[len(name) :]: v for k, v in tensors.items() if k.startswith(name)}

        try:
            self.place = Place(**state)
            self.model.load_state_dict(part("model."))
            self.average.load_state_dict(part("average."))
            self.best = part("best.")
            whole = self.optimizer.state_dict()
            numbers = sorted({int(k.split(".")[0]) for k in part("optimizer.")})
            whole["state"] = {n: part(f"optimizer.{n}.") for n in numbers}
            self.optimizer.load_state_dict(whole)
        except (RuntimeError, TypeError, ValueError) as error:
            raise DataError(
                f"{self.folder}: the checkpoint belongs to another model or longrec ({error}). "
                "Resume with the settings and data it was written with, or train again without "
                "--resume."
            ) from error
        limit = self.config.max_minutes
        if self.place.stop == "max_minutes" and (limit is None or self.place.seconds < 60 * limit):
            self.place.stop = ""  # more time was given
        carried = part("carried.")
        if carried:
            leaves = iter([carried[str(n)].to(self.device) for n in range(len(carried))])
            self.state = map_state(lambda _: next(leaves), self.model.initial_state(1))


def _count(
    model: CountingModel, histories: Histories, split: Split, config: TrainConfig
) -> FitResult:
    began = time.perf_counter()
    items, first = histories.items.astype(np.int64), histories.offsets[:-1]
    before = np.concatenate([[0], items[:-1]])
    before[first[first < len(items)]] = 0
    trains = training_events(histories.offsets, split.train_end)
    model.count(torch.from_numpy(before[trains]), torch.from_numpy(items[trains]))
    model.eval()
    targets = draw(split.validation, config.validation_users, config.seed)
    metrics = _metrics(rank_targets(model, histories, targets))
    kept = {k: metrics[k] for k in ("ndcg@10", "hr@10")} if len(targets) else {}
    seconds = time.perf_counter() - began
    return FitResult("counted", True, 1, seconds, int(trains.sum()), [], kept, 0)


def _metrics(ranks: pl.DataFrame) -> dict[str, float]:
    """Validation metrics @10, by the ranks that will lead the test's table.

    A target unseen in training misses; seen items are not filtered where repeats are common.
    """
    repeated = ranks["repeat"].sum() > REPEATS_LEAD * len(ranks)
    column = ranks["rank_unfiltered" if repeated else "rank"].to_numpy()
    rank = np.where(ranks["known"].to_numpy(), column, MISS)
    return summarise(rank, ks=(10,))


def draw(targets: Targets, most: int, seed: int) -> Targets:
    """At most `most` of the targets, drawn by the seed, in their order."""
    if len(targets) <= most:
        return targets
    chosen = np.sort(np.random.default_rng(seed).choice(len(targets), most, replace=False))
    return replace(
        targets,
        users=targets.users[chosen],
        positions=targets.positions[chosen],
        known=targets.known[chosen],
    )


def write_log(path: Path, rows: list[dict[str, Any]]) -> None:
    """The log as CSV: one row per validation."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(Row.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_file(path, text.getvalue())


def _seed(*parts: int) -> int:
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()) >> 1


def _copy(model: Model) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


def _leaves(state: UserState) -> list[Tensor]:
    found: list[Tensor] = []
    map_state(lambda part: found.append(part) or part, state)  # type: ignore[func-returns-value]
    return found
