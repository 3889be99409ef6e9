"""Fitting a model: the loop, its state, and how it stops, is killed and goes on.

Every step seeds torch with (seed, epoch, step), and batches are functions of the same, so that a
run that was killed anywhere and resumed from its last checkpoint ends with the same numbers. The
caller gets torch's generators back as they were.

Several processes may fit one model (processes.py): each does this with its part of every batch, and
what is decided by a clock, a caller or a disk is decided by rank 0.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from longrec.artifact.training_log import ValidationRow, frame_of, write_log
from longrec.config.training import TrainConfig, refuse_unread
from longrec.core.errors import DataError, LongrecError
from longrec.core.generators import generators_kept, seed_by
from longrec.core.memory import freed_memory_kept
from longrec.data.batches import Batch, TrainingData
from longrec.data.histories import Histories
from longrec.data.sampling import Masking, Prefixes
from longrec.data.splits import ALL, Split
from longrec.mixers.product_keys import watch_usage
from longrec.models import CountingModel, Model, SequenceModel
from longrec.models.common.config import check_targets
from longrec.models.common.scorer import Scorer
from longrec.training.checkpoint import load_checkpoint
from longrec.training.checkpoint_writer import CheckpointWriter
from longrec.training.counting import count
from longrec.training.objective import (
    check_loss,
    make_objective,
    minimised,
    reads_few_items,
    reads_items_by_rows,
)
from longrec.training.optimiser import Optimiser
from longrec.training.precision import choose_precision
from longrec.training.processes import Processes
from longrec.training.progress import (
    CLOCKS,
    FitResult,
    FitStatus,
    OnEpoch,
    Progress,
    Report,
    Show,
    asks_to_stop,
    or_none,
    settings_of,
)
from longrec.training.ranking import rank_in_shards
from longrec.training.shards import Shards
from longrec.training.teachers import Teachers
from longrec.training.validation import (
    draw_targets,
    named,
    policy_of,
    rank_together,
    validated,
)
from longrec.training.windows import WindowReader

PARTS = ("model", "average", "optimizer", "carried")  # of a checkpoint, besides the best weights


def fit(
    model: Model,
    histories: Histories,
    split: Split,
    config: TrainConfig,
    run: Path,
    resume: bool = False,
    show: Show | None = None,
    validate_first: bool = False,
    on_epoch: OnEpoch | None = None,
    device: torch.device | None = None,
    teachers: Sequence[SequenceModel] = (),
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
        An existing folder for checkpoints and log.csv; rank 0 alone reads and writes there.
    resume : bool
        Go on from the run's last checkpoint, if it has one.
    show : callable or None
        Called after every step, and while validations go on.
    validate_first : bool
        Whether the weights that `model` comes with are validated before the first step, and kept
        where nothing better follows.
    on_epoch : callable or None
        Called after every epoch, with its checkpoint begun; where it returns True, training ends.
    device : torch.device or None
        Where it is trained; None: where it is. It stays there, but for one whose tables of items
        were in parts on several devices: that one is whole on the CPU in the end.
    teachers : sequence of SequenceModel
        From which the model learns as well, by the config's `teacher_share`; they let
        `teachers.check_teachers` pass, and are moved to the device.

    Returns
    -------
    FitResult

    Raises
    ------
    LongrecError
        When there is nothing to train on, the model would learn to copy its targets, a setting
        has no effect on such a model, its loss cannot be had, or is not finite.
    """
    device = device or model.device
    if isinstance(model, CountingModel):
        model.to(device)
        return count(model, histories, split, config, on_epoch)
    assert isinstance(model, SequenceModel)
    model.learn_words({name: histories.columns[name].words for name in model.reads_columns})
    check_loss(model, config)
    data = training_data(model, histories, split, config)
    if not data.targets_per_epoch:
        raise LongrecError(
            f"{histories.path}: no user has two training events under the protocol "
            f"{split.protocol!r}, so there is nothing to train on"
        )
    kept = freed_memory_kept() if device.type == "cpu" else nullcontext()
    with generators_kept(device), kept:  # what trained is gone when `kept` gives its memory back
        fitted = _Fit(model, data, split, config, run, show, on_epoch, device, teachers)
        return fitted.run(resume, validate_first)


def training_data(
    model: SequenceModel,
    histories: Histories,
    split: Split,
    config: TrainConfig,
) -> TrainingData:
    """What a model trains on, by the targets that it is made for."""
    try:
        check_targets(model.name, model.targets, model.causal)
        readers = {"masked": ("mask_share", "mask_last"), "last": ("prefixes",)}
        for targets, names in readers.items():
            if targets != model.targets:
                fact = f"{model.name} has targets {model.targets!r}"
                refuse_unread(config, names, fact, f"targets={targets}")
    except ValueError as error:
        raise LongrecError(str(error)) from None
    window = config.window if model.streaming == "exact" else int(np.iinfo("i4").max)
    samplings: dict[str, Masking | Prefixes] = {
        "masked": Masking(config.mask_share, config.mask_last),
        "last": Prefixes(config.prefixes),
    }
    limits = [n for n in (config.context, model.max_length) if n is not None]
    context = min(limits, default=None)
    return TrainingData(
        *(histories, split.train_end, context, window, config.batch_tokens, config.seed),
        sampling=samplings.get(model.targets),
        columns=model.reads_columns,
    )


class _Fit:
    """The state of one fit and its loop."""

    def __init__(
        self,
        model: SequenceModel,
        data: TrainingData,
        split: Split,
        config: TrainConfig,
        run: Path,
        show: Show | None = None,
        on_epoch: OnEpoch | None = None,
        device: torch.device | None = None,
        teachers: Sequence[SequenceModel] = (),
    ) -> None:
        device = device or model.device
        self.model, self.data, self.config, self.folder = model, data, config, run
        self.show, self.on_epoch, self.device = show, on_epoch, device
        self.processes = Processes.here()
        self.processes.as_first(model.state_dict().values())
        self.final = split.protocol == ALL
        precision = choose_precision(config.precision, device)
        self.status = FitStatus(precision=self.processes.document_of_first(precision))
        by_rows = reads_few_items(config, model.n_items) and reads_items_by_rows(model)
        self.shards = None
        model.sparse_items = by_rows and self.processes.number == 1
        if by_rows and not model.sparse_items:
            self.shards = Shards(model.item_tables(), model.n_items, self.processes, device)
            self.shards.take(model)  # before the device gets more than a part of them
        model.to(device)
        self.average = copy.deepcopy(model).eval().requires_grad_(False)
        self.best = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        self.optimiser = Optimiser(model, self.average, config, self.processes, self.shards)
        self.objective = make_objective(config, data, self.device, self.products)
        self.validation = draw_targets(split.validation, config.validation_users, config.seed)
        self.reader = WindowReader(model)
        self.teachers = Teachers(teachers, config.teacher_share, self.device) if teachers else None
        self.writer = CheckpointWriter(run)
        self.clock = CLOCKS[config.clock]
        self.start = self.clock()  # as if all had been done in this process
        self.saved_at = 0.0

    def run(self, resume: bool, validate_first: bool) -> FitResult:
        if resume:
            self.load()
        with self.writer:
            self.train(validate_first)
        status = self.status
        if self.shards is None:
            self.model.load_state_dict(self.best)
        else:
            self.shards.give_whole(self.model, self.best)
        self.model.eval()
        self.model.zero_grad()  # a gradient is as large as its table
        best = next((row for row in status.rows if row.ndcg10 == status.best), None)
        return FitResult(
            stop=status.stop or "max_epochs",
            converged=status.stop == "converged",
            epochs=status.epoch,
            seconds=status.seconds,
            events=status.events,
            rows=status.rows,
            precision=status.precision,
            best_epoch=status.begun if best is None else status.best_epoch,
            validation={} if best is None else named(best),
            policy=policy_of(best, self.config),
            dropped=self.data.dropped,
        )

    def train(self, validate_first: bool) -> None:
        """Go on from where it stands to the end, validating and saving."""
        status, config = self.status, self.config
        self.start = self.clock() - status.seconds
        self.saved_at = status.seconds
        if validate_first and not status.total_steps and not status.rows:
            self.validate()
            self.save()
            self.tell(validated=True)
        # An interrupt may fall between an update and its count: only whole steps are saved.
        while not status.stop and status.epoch < config.max_epochs:
            if not self.run_epoch():
                break
            status.epoch, status.step = status.epoch + 1, 0
            last = status.epoch == config.max_epochs
            validated = status.epoch % config.validate_every == 0 or last
            if validated:
                self.validate()
            self.save()
            self.tell(validated)
        if status.stop in ("max_minutes", "on_epoch") and status.loss_events:
            self.validate()
            self.save()
            self.tell(validated=True)

    def run_epoch(self) -> bool:
        """Train from where it stands to the epoch's end (True), or until time is up (False)."""
        status, config = self.status, self.config
        epoch = self.data.epoch(status.epoch)
        self.model.train()
        for batch in epoch.batches(status.step, config.workers, self.processes.part):
            loss, targets, events = self.step(batch.to(self.device))
            status.step, status.total_steps = status.step + 1, status.total_steps + 1
            status.events += events
            status.loss_events += targets
            status.loss_sum += loss
            self.writer.check()
            seconds = self.clock() - self.start
            due = seconds - self.saved_at > 60 * config.checkpoint_minutes and not self.writer.busy
            status.seconds, save = self.processes.of_first(seconds, due)
            self.report(len(epoch), loss / targets)
            if config.max_minutes is not None and status.seconds > 60 * config.max_minutes:
                status.stop = "max_minutes"
                return False
            if save:
                self.save()
        return True

    def step(self, batch: Batch) -> tuple[float, int, int]:
        """One update; the sum of losses, the targets and the events read, of all processes."""
        status, config = self.status, self.config
        place = config.seed, status.epoch, status.step
        seed_by(place, self.device)
        real = batch.targets > 0
        targets, negatives = batch.targets[real], self.objective.draw()
        self.optimiser.read(batch.items, targets, negatives)
        if self.processes.number > 1:  # what a layer drops is drawn by each for its own rows
            seed_by((*place, self.processes.rank), self.device)
        if len(batch.items):
            with self.autocast():
                h = self.reader.read(batch)[real]
                taught = None if self.teachers is None else self.teachers.read(batch, real)
            h = h.to(torch.promote_types(h.dtype, torch.float32))
            further = {name: x[real] for name, x in (batch.target_columns or {}).items()}
            given = h, targets, negatives, further, taught
            loss = minimised(self.objective, self.model, *given)
        else:  # fewer rows than processes
            loss = None
            for reader in self.readers:
                reader.pass_over(batch)
        mine = 0.0 if loss is None else float(loss.detach()) * len(targets)
        own = mine, float(len(targets)), float(batch.lengths.sum())
        value, number, events = self.processes.sums(*own)
        if not np.isfinite(value):
            raise LongrecError(
                f"the loss is {value / number} at epoch {status.epoch}, step {status.step}; try a "
                f"lower learning_rate (now {config.learning_rate}) or clip (now {config.clip})"
            )
        self.optimiser.zero_grad()
        if loss is not None:  # a mean over all targets, whoever has them
            (loss * (len(targets) / number)).backward()
        self.optimiser.step(status.total_steps)
        return value, int(number), int(events)

    @property
    def readers(self) -> list[WindowReader]:
        """All that carry states from one batch to the next."""
        return [self.reader, *([] if self.teachers is None else self.teachers.readers)]

    @property
    def products(self) -> torch.dtype:
        """The type of products; a run goes on in the one that it began in, on any machine."""
        return torch.bfloat16 if self.status.precision == "bfloat16" else torch.float32

    def autocast(self) -> AbstractContextManager[Any]:
        # On a CPU the loss alone multiplies in bfloat16: its shapes are always the same, while each
        # shape of a layer's would be a kernel of its own, made and kept.
        if self.products == torch.float32 or self.device.type == "cpu":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.products)

    def validate(self) -> None:
        """Rank the validation targets with the averaged weights; keep them if they are best."""
        status = self.status
        self.data.histories.check()  # files that change under a run would give other events
        self.optimiser.settle()
        with watch_usage(self.average) as usage:
            ranks = self.ranks(lambda done, total: self.report(1, status.loss, done / total))
        self.processes.add_up([usage.counts])
        found = validated(ranks, self.config.exclude_seen)
        (status.seconds,) = self.processes.of_first(self.clock() - self.start)
        row = ValidationRow(
            epoch=status.epoch,
            step=status.total_steps,
            seconds=round(status.seconds, 2),
            events=status.events,
            loss=status.loss,
            **(asdict(found) | usage.statistics()),
        )
        status.rows.append(row)
        status.loss_sum, status.loss_events = 0.0, 0
        if not len(self.validation):
            self.keep_weights()  # nothing to choose by: the latest weights are kept
        elif row.ndcg10 > status.best:
            status.best, status.best_epoch, status.worse = row.ndcg10, status.begun, 0
            self.keep_weights()
        else:
            status.worse += 1
            if status.worse >= self.config.patience:
                status.stop = "converged"
        if not self.processes.rank:
            write_log(self.folder, frame_of(status.rows))
        self.report(1, row.loss)

    def ranks(self, progress: Callable[[int, int], None]) -> pl.DataFrame:
        """The ranks of the validation targets that `validated` reads."""
        wanted = self.data.histories, self.validation, self.config.context, progress
        if self.shards is None:
            return rank_together(Scorer(self.average), *wanted, self.processes)
        tables = {name: self.optimiser.rows[name].average for name in self.shards.names}
        return rank_in_shards(self.average, tables, self.shards, *wanted)

    def keep_weights(self) -> None:
        """Keep the averaged weights as the best, where the best before them stand."""
        self.writer.best_changes()
        for name, tensor in self.optimiser.averages_of_weights().items():
            self.best[name].copy_(tensor)

    def tell(self, validated: bool) -> None:
        """Tell the caller how far it is, which may end the training."""
        status = self.status
        stop = status.stop or ("max_epochs" if status.epoch >= self.config.max_epochs else "")
        row = status.rows[-1] if validated else None
        reached = Progress(
            model=self.model.name,
            settings=settings_of(self.model, self.config),
            final=self.final,
            epoch=status.begun,
            step=status.total_steps,
            seconds=status.seconds,
            events=status.events,
            loss=status.loss if row is None else row.loss,
            ndcg10=None if row is None else or_none(row.ndcg10),
            hr10=None if row is None else or_none(row.hr10),
            best_ndcg10=status.best if status.best >= 0 else None,
            best_epoch=status.best_epoch,
            stop=stop,
        )
        asked = False
        if self.on_epoch is not None and not self.processes.rank:
            asked = asks_to_stop(self.on_epoch(reached))
        if any(self.processes.of_first(asked)) and not stop:
            status.stop = "on_epoch"

    def report(self, steps: int, loss: float | None, validating: float | None = None) -> None:
        if self.show is not None:
            rate = self.status.events / max(self.status.seconds, 1e-9)
            self.show(Report(self.status, steps, loss, rate, validating))

    def save(self) -> None:
        """Begin to write a checkpoint of everything that the next step depends on."""
        self.saved_at = self.status.seconds
        parts_of = [part for reader in self.readers for part in reader.carried()]
        carried = [self.processes.all(part) for part in parts_of]
        parts = {
            "model": self.optimiser.weights(),
            "average": self.optimiser.averages_of_weights(),
            "optimizer": self.optimiser.tensors(),
            "carried": {str(number): part for number, part in enumerate(carried)},
        }
        best = self.best
        if self.shards is not None:
            self.writer.wait()
            if any(self.processes.of_first(not self.writer.best_is_written)):
                best = self.shards.gathered(best, self.optimiser.in_shards())
            for part in ("model", "average", "optimizer"):
                parts[part] = self.shards.gathered(parts[part], self.optimiser.in_shards())
        if self.processes.rank:
            return
        tensors = {
            f"{part}.{name}": x for part, named in parts.items() for name, x in named.items()
        }
        self.writer.save(tensors, best, asdict(self.status))

    def told_by_first(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors that rank 0 has; of tables in shards the own rows."""
        if self.shards is None:
            return self.processes.tensors_of_first(tensors)
        return self.shards.told(tensors, self.optimiser.in_shards())

    def load(self) -> None:
        """Go to the last checkpoint, if there is one; it tells nothing of how many wrote it."""
        found = None if self.processes.rank else load_checkpoint(self.folder)
        tensors, best, state = found or ({}, {}, None)
        state = self.processes.document_of_first(state)
        if state is None:
            return
        try:
            best = self.told_by_first(best)
            parts = {part: self.told_by_first(_below(part, tensors)) for part in PARTS}
            rows = [ValidationRow(**row) for row in state["rows"]]
            self.status = FitStatus(**state | {"rows": rows})
            self.objective = make_objective(self.config, self.data, self.device, self.products)
            self.model.load_state_dict(parts["model"])
            self.average.load_state_dict(parts["average"])
            for name, tensor in self.best.items():
                tensor.copy_(best[name])
            self.optimiser.load(parts["optimizer"])
            self.writer.best_is_written = True
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise DataError(
                f"{self.folder}: the checkpoint belongs to another model or longrec ({error}). "
                "Resume with the settings and data it was written with, or train again without "
                "--resume."
            ) from error
        limit, status = self.config.max_minutes, self.status
        if status.stop == "max_minutes" and (limit is None or status.seconds < 60 * limit):
            status.stop = ""  # more time was given
        if status.stop == "on_epoch":
            status.stop = ""  # whoever goes on wants more than who stopped it
        carried = parts["carried"]
        if carried:
            own = self.processes.part(len(carried["0"]))
            leaves = iter([carried[str(n)][own] for n in range(len(carried))])
            for reader in self.readers:
                reader.carry(leaves, self.device)


def _below(part: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a part of a checkpoint, by their names in it."""
    head = f"{part}."
    return {n.removeprefix(head): x for n, x in tensors.items() if n.startswith(head)}
