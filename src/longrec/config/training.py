"""Settings of training: one frozen record; `border` checks what it is made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Annotated, Literal

from longrec.core.bounds import MOST, Bounds
from longrec.core.choices import ExcludeSeen, ProtocolName
from longrec.core.cuts import cut_times

LossName = Literal["full", "sampled", "gbce", "bce"]
Precision = Literal["auto", "float32", "bfloat16"]
ClockName = Literal["wall", "processor"]


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained.

    Attributes
    ----------
    max_epochs : most passes over the training events.
    max_minutes : most minutes of training; none: no limit.
    clock : of those minutes and of every time told of the training. "wall" is time that passes;
        "processor" is time that this process computes, all threads summed up: the same work gets
        done in it when others keep the machine busy, so comparisons stay fair (not on a GPU).
    patience : stop after this many validations without a better NDCG@10.
    validate_every : epochs from one validation to the next.
    validation_users : most users that a validation ranks (drawn once, by the seed).
    protocol : how the log is cut: which events train, validate and test; under all, which is what
        refits have, every event trains.
    cut : of the protocol global-time, the moment of the test cut in UTC, "2018-06-01" or
        "2018-06-01T12:00"; or two with a comma between, of validation and test; none: the .8 and
        .9 quantiles of all times.
    exclude_seen : whether items that a user has seen are left out when the model serves; auto: the
        one of the two that serves the validation targets better.
    transitions : what followed a user's last items in training, counted and added to the scores of
        a model that is trained: how many last items are read; 0: nothing is added. auto: as many as
        serve the validation targets best, none where nothing added serves them better. How further
        items count, and the weight, are found by the same targets.
    context : train on at most this many events per user, the latest ones; none: on whole histories.
        A model that streams exactly reads all events when it serves, and is validated so.
    window : events read at once; longer histories carry their state on, detached.
    batch_tokens : padded events per batch.
    learning_rate : of AdamW, after its warmup.
    beta1 : decay per step of AdamW's average of gradients.
    beta2 : decay per step of AdamW's average of squared gradients.
    weight_decay : of AdamW, on the parameters that the model decays.
    warmup_steps : first steps, over which the learning rate rises linearly to its full value.
    clip : largest norm of the gradient.
    average : decay per step of the moving average of weights that is validated and kept; 0: none.
    loss : "full" cross-entropy over the catalog, or one against sampled negatives: "sampled"
        softmax with logQ correction, "gbce" or "bce".
    negatives : negatives per batch, shared by its targets; every loss but "full" draws them.
    gbce_t : calibration of the loss "gbce", 0 (plain BCE) to 1.
    teachers : folders of runs, with commas between, from whose mean the model learns as well
        (distillation): runs that stream exactly, trained on the same histories under the same
        protocol. The loss is "full" then.
    teacher_share : how much of the loss they have, the rest being what really came next.
    mask_share : chance of an event to be hidden when a model's `targets` is "masked".
    mask_last : chance of a row to have its last event alone hidden when `targets` is "masked".
    prefixes : prefixes drawn per history and epoch when a model's `targets` is "last".
    precision : of products, on a CPU those of the loss over all items alone. "auto" takes bfloat16
        on a GPU that has it and on a CPU that multiplies it natively, by what that says of itself.
    workers : threads that prepare batches; any number gives the same numbers.
    checkpoint_minutes : time from one checkpoint to the next.
    seed : of everything drawn at random.
    """

    max_epochs: Annotated[int, Bounds(ge=0, le=MOST)] = 200
    max_minutes: Annotated[float | None, Bounds(gt=0)] = None
    clock: ClockName = "wall"
    patience: Annotated[int, Bounds(ge=1, le=MOST)] = 10
    validate_every: Annotated[int, Bounds(ge=1, le=MOST)] = 1
    validation_users: Annotated[int, Bounds(ge=1, le=MOST)] = 10_000
    protocol: ProtocolName = "leave-one-out"
    cut: str | None = None
    exclude_seen: ExcludeSeen = "auto"
    transitions: Annotated[int | Literal["auto"], Bounds(ge=0, le=100)] = "auto"
    context: Annotated[int | None, Bounds(ge=1, le=MOST)] = None
    window: Annotated[int, Bounds(ge=1, le=MOST)] = 4096
    batch_tokens: Annotated[int, Bounds(ge=1, le=MOST)] = 2000
    learning_rate: Annotated[float, Bounds(gt=0)] = 1e-3
    beta1: Annotated[float, Bounds(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Bounds(ge=0, lt=1)] = 0.98
    weight_decay: Annotated[float, Bounds(ge=0)] = 0.01
    warmup_steps: Annotated[int, Bounds(ge=0, le=MOST)] = 200
    clip: Annotated[float, Bounds(gt=0)] = 1.0
    average: Annotated[float, Bounds(ge=0, lt=1)] = 0.999
    loss: LossName = "full"
    negatives: Annotated[int, Bounds(ge=1, le=MOST)] = 512
    gbce_t: Annotated[float, Bounds(ge=0, le=1)] = 0.75
    teachers: str | None = None
    teacher_share: Annotated[float, Bounds(gt=0, le=1)] = 0.7
    mask_share: Annotated[float, Bounds(gt=0, lt=1)] = 0.2
    mask_last: Annotated[float, Bounds(ge=0, le=1)] = 0.1
    prefixes: Annotated[int, Bounds(ge=1, le=MOST)] = 4
    precision: Precision = "auto"
    workers: Annotated[int, Bounds(ge=0, le=1024)] = 0
    checkpoint_minutes: Annotated[float, Bounds(gt=0)] = 1.0
    seed: Annotated[int, Bounds(ge=0)] = 0

    def __post_init__(self) -> None:
        if self.loss == "full":
            fact = "loss is 'full', which draws none"
            refuse_unread(self, ("negatives",), fact, "loss=sampled (or gbce, bce)")
        else:
            fact = f"loss is {self.loss!r}, and teachers speak of all items"
            refuse_unread(self, ("teachers",), fact, "loss=full")
        if self.loss != "gbce":
            refuse_unread(self, ("gbce_t",), f"loss is {self.loss!r}", "loss=gbce")
        if self.teachers is None:
            refuse_unread(self, ("teacher_share",), "there are no teachers", "teachers=RUN,RUN")
        if self.protocol != "global-time":
            fact = f"protocol is {self.protocol!r}"
            refuse_unread(self, ("cut",), fact, "protocol=global-time")
        if self.cut is not None:
            cut_times(self.cut)


def refuse_unread(config: TrainConfig, names: Iterable[str], fact: str, reader: str) -> None:
    """Raise ValueError for a setting that was changed although nothing reads it.

    Parameters
    ----------
    config : TrainConfig
    names : iterable of str
        Settings without a reader.
    fact, reader : str
        Why nothing reads them, and what would.
    """
    defaults = {f.name: f.default for f in fields(config)}
    for name in names:
        if getattr(config, name) != defaults[name]:
            raise ValueError(
                f"{name} is {getattr(config, name)}, but {fact}, and only {reader} reads it: "
                f"leave {name} out or set {reader}"
            )
