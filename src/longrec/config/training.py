"""Settings of training: one frozen record, checked where it is made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Literal

LossName = Literal["full", "sampled", "gbce", "bce", "bpr"]
Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained.

    Attributes
    ----------
    max_epochs, max_minutes : when to stop at the latest (minutes of training; None: no limit).
    patience : stop after this many validations without a better NDCG@10.
    validate_every : epochs from one validation to the next.
    validation_users : most users that a validation ranks (drawn once, by the seed).
    split : which events train, validate and test.
    context : read at most this many events per user, the latest ones; None reads whole histories.
    window : events read at once; longer histories carry their state on, detached.
    batch_tokens : padded events per batch.
    learning_rate, beta1, beta2, weight_decay, warmup_steps : AdamW and its linear warmup.
    clip : largest norm of the gradient.
    average : decay per step of the moving average of weights that is validated and kept; 0: none.
    loss : "full" cross-entropy over the catalog, or one against sampled negatives: "sampled"
        softmax with logQ correction, "gbce", "bce" or "bpr".
    negatives : negatives per batch, shared by its targets; every loss but "full" draws them.
    gbce_t : calibration of the loss "gbce", 0 (plain BCE) to 1.
    mask_share, mask_last : chance of an event to be hidden, and of a row to have its last event
        alone hidden, when a model's `targets` is "masked".
    prefixes : prefixes drawn per history and epoch when a model's `targets` is "last".
    precision : of products, on a CPU those of the loss over all items alone. "auto" takes bfloat16
        on a GPU that has it, and on a CPU where a short measurement finds it faster than float32.
    workers : threads that prepare batches; any number gives the same numbers.
    checkpoint_minutes : time from one checkpoint to the next.
    seed : of everything drawn at random.
    """

    max_epochs: int = 200
    max_minutes: float | None = None
    patience: int = 10
    validate_every: int = 1
    validation_users: int = 10_000
    split: str = "leave-one-out"
    context: int | None = None
    window: int = 4096
    batch_tokens: int = 2000
    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.98
    weight_decay: float = 0.01
    warmup_steps: int = 200
    clip: float = 1.0
    average: float = 0.999
    loss: LossName = "full"
    negatives: int = 512
    gbce_t: float = 0.75
    mask_share: float = 0.2
    mask_last: float = 0.1
    prefixes: int = 4
    precision: Precision = "auto"
    workers: int = 0
    checkpoint_minutes: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (
            *("patience", "validate_every", "validation_users"),
            *("window", "batch_tokens", "prefixes"),
        ):
            _at_least(self, name, 1)
        for name in ("max_epochs", "warmup_steps", "workers", "seed", "weight_decay"):
            _at_least(self, name, 0)
        for name in ("negatives", "context"):
            if getattr(self, name) is not None:
                _at_least(self, name, 1)
        for name in ("learning_rate", "clip", "checkpoint_minutes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if self.max_minutes is not None and not self.max_minutes > 0:
            raise ValueError(f"max_minutes is {self.max_minutes}; it must be above 0")
        for name in ("beta1", "beta2", "average"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in [0, 1)")
        for name in ("gbce_t", "mask_last"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in [0, 1]")
        if not 0 < self.mask_share < 1:
            raise ValueError(f"mask_share is {self.mask_share}; it must lie above 0 and below 1")
        if self.loss == "full":
            fact = "loss is 'full', which draws none"
            refuse_unread(self, ("negatives",), fact, "loss=sampled (or gbce, bce, bpr)")
        if self.loss != "gbce":
            refuse_unread(self, ("gbce_t",), f"loss is {self.loss!r}", "loss=gbce")


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


def _at_least(config: TrainConfig, name: str, least: int) -> None:
    if getattr(config, name) < least:
        raise ValueError(f"{name} is {getattr(config, name)}; it must be at least {least}")
