"""A small model trained on a tiny log, watched: what the checks of trained models look at."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from longrec.artifact.provenance import provenance
from longrec.checks.compare import NotApplicable
from longrec.checks.small_model import TYPES, SmallModel
from longrec.config.training import TrainConfig
from longrec.data.event_columns import TYPE
from longrec.data.histories import Histories
from longrec.data.prepare import prepare
from longrec.data.splits import make_split
from longrec.models import SequenceModel, build_model
from longrec.recommender import Recommender
from longrec.training.fit import fit

USERS, ITEMS, LONGEST = 60, 30, 24
FOLLOWS = 0.85
"""Share of events that are the item after the one before, which is what there is to learn."""
TRAINING = TrainConfig(
    max_epochs=4,
    patience=4,
    batch_tokens=200,
    learning_rate=1e-2,
    warmup_steps=5,
    average=0.9,
    precision="float32",
)


@dataclass
class Gradients:
    """What got a gradient while a model was trained.

    reached : names of parameters with a gradient that was not all zero; interests : (R,) sums of
    the absolute gradients of each of a user's vectors, None where `user_vectors` was never asked.
    """

    reached: set[str] = field(default_factory=set)
    interests: Tensor | None = None

    def watch(self, model: SequenceModel) -> None:
        """Watch a model until `leave`; its `user_vectors` is watched if it is the model's own."""

        def reached(parameter: Tensor, name: str) -> None:
            if parameter.grad is not None and bool(parameter.grad.to_dense().any()):
                self.reached.add(name)

        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(
                    lambda parameter, name=name: reached(parameter, name)
                )
        cls = type(model)
        if cls.user_vectors is SequenceModel.user_vectors:
            return

        def user_vectors(model: SequenceModel, h: Tensor) -> Tensor:
            users = cls.user_vectors(model, h)
            if users.requires_grad:
                users.register_hook(self._add)
            return users

        model.__class__ = type(cls.__name__, (cls,), {"user_vectors": user_vectors})

    def leave(self, model: SequenceModel, cls: type[SequenceModel]) -> None:
        """Give the model back its class."""
        model.__class__ = cls

    def _add(self, gradient: Tensor) -> None:
        sums = gradient.detach().abs().sum((0, 2))
        self.interests = sums if self.interests is None else self.interests + sums


class TrainedModel:
    """A small model, trained once on a tiny log for all checks that need it trained.

    Its folder goes when the `with` block around it ends.

    Parameters
    ----------
    small : SmallModel
    """

    def __init__(self, small: SmallModel) -> None:
        self.small = small
        self.folder = tempfile.TemporaryDirectory(prefix="longrec-check-")
        self.gradients = Gradients()
        self.losses: list[float] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.folder.cleanup()

    @cached_property
    def log(self) -> pl.DataFrame:
        """Events of users who mostly go on to the next item, and else back to the first few."""
        random = np.random.default_rng(0)
        lengths = random.integers(4, LONGEST + 1, USERS)
        events = int(lengths.sum())
        item, items = 0, []
        for goes_on in random.random(events) < FOLLOWS:
            item = (item + 1) % ITEMS if goes_on else int(random.integers(3))
            items.append(f"item {item}")
        log = pl.DataFrame(
            {
                "user": np.repeat(np.arange(USERS), lengths),
                "item": items,
                "time": 1_700_000_000 + random.integers(60, 9000, events).cumsum(),
            }
        )
        return log.with_columns(
            pl.Series(name, random.choice(TYPES, events) if c.is_text else random.random(events))
            for name, c in self.small.columns.items()
        )

    def prepared(self, name: str, log: pl.DataFrame) -> Histories:
        """Histories of a log, in a folder of that name."""
        columns = self.small.columns
        return prepare(
            log,
            Path(self.folder.name) / name,
            type=TYPE if TYPE in columns else None,
            columns=[column for column in columns if column != TYPE],
        )

    @cached_property
    def histories(self) -> Histories:
        """The whole log."""
        return self.prepared("histories", self.log)

    def sequence(self) -> SequenceModel:
        """The trained model, of one that is trained by gradient.

        Raises
        ------
        NotApplicable
        """
        model = self.recommender.model
        if not isinstance(model, SequenceModel):
            raise NotApplicable("it counts, and is not trained by gradient")
        return model

    @cached_property
    def recommender(self) -> Recommender:
        """Trained with the loss over all items (sampled for a target-aware model), and saved."""
        small, data = self.small, self.histories
        torch.manual_seed(0)
        model = build_model(small.name, small.config, data.n_items)
        config = TRAINING
        if isinstance(model, SequenceModel) and model.target_aware:
            config = replace(config, loss="sampled", negatives=32)
        run = Path(self.folder.name) / "run"
        run.mkdir(exist_ok=True)
        split = make_split(config.protocol, data, config.cut)
        if isinstance(model, SequenceModel):
            _stir(model)
            cls = type(model)
            self.gradients.watch(model)
            try:
                rows = fit(model, data, split, config, run).rows
            finally:
                self.gradients.leave(model, cls)
            self.losses = [row.loss for row in rows if row.loss is not None]
        else:
            fit(model, data, split, config, run)
        about = provenance(data, config.seed)
        recommender = Recommender(
            *(small.name, model, small.config, config, data.catalog, about),
            columns={name: data.columns[name] for name in small.columns},
        )
        recommender.save(run)
        return recommender


def _stir(model: nn.Module) -> None:
    """Move every weight a little: behind weights that start at zero no gradient would pass."""
    random = torch.Generator().manual_seed(1)
    tables = set(model.item_tables()) if isinstance(model, SequenceModel) else set()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = 0.02 * torch.randn(parameter.shape, generator=random)
            if name in tables:
                noise[0] = 0  # padding
            parameter.add_(noise)
