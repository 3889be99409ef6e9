"""Checks of a model that has been trained on a tiny log: gradients, ranks, saving, new items."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from longrec.artifact.provenance import provenance
from longrec.checks.compare import CheckFailed, NotApplicable, require, same, same_state
from longrec.checks.small_model import SmallModel
from longrec.config.training import TrainConfig
from longrec.data.histories import Histories
from longrec.data.prepare import prepare
from longrec.data.splits import make_split
from longrec.models import Model, SequenceModel, build_model
from longrec.recommender import Recommender, load
from longrec.runs.evaluate import evaluate
from longrec.training.fit import fit

USERS, ITEMS, LONGEST = 60, 30, 24
FOLLOWS = 0.85
"""Share of events that are the item after the one before, which is what there is to learn."""
TRAINING = TrainConfig(
    max_epochs=6,
    patience=6,
    batch_tokens=200,
    learning_rate=1e-2,
    warmup_steps=5,
    average=0.9,
    precision="float32",
)
ROUNDING = 1e-5


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
            pl.Series(name, random.integers(0, 3, events))
            for name in self.small.build().reads_columns
        )

    def prepared(self, name: str, log: pl.DataFrame) -> Histories:
        """Histories of a log, in a folder of that name."""
        return prepare(log, Path(self.folder.name) / name)

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
        """Trained with the loss that `longrec train` takes, and saved."""
        small, data = self.small, self.histories
        torch.manual_seed(0)
        model = build_model(small.name, small.config, data.n_items)
        run = Path(self.folder.name) / "run"
        run.mkdir(exist_ok=True)
        split = make_split(TRAINING.split, data)
        if isinstance(model, SequenceModel):
            _stir(model)
            cls = type(model)
            self.gradients.watch(model)
            try:
                rows = fit(model, data, split, TRAINING, run).rows
            finally:
                self.gradients.leave(model, cls)
            self.losses = [row.loss for row in rows if row.loss is not None]
        else:
            fit(model, data, split, TRAINING, run)
        about = provenance(data, TRAINING.seed)
        recommender = Recommender(small.name, model, small.config, TRAINING, data.catalog, about)
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


def check_training(trained: TrainedModel) -> None:
    """Training on a tiny log lowers the loss."""
    trained.sequence()
    first, last = trained.losses[0], trained.losses[-1]
    require(
        last < 0.98 * first,
        f"the training loss went from {first:.4f} to {last:.4f} in {len(trained.losses)} epochs on "
        f"a log where {FOLLOWS:.0%} of the events follow from the one before",
    )


def check_gradients(trained: TrainedModel) -> None:
    """Every parameter and every interest gets a gradient from the loss it is trained with."""
    model, gradients = trained.sequence(), trained.gradients
    wanted = {name for name, p in model.named_parameters() if p.requires_grad and p.numel()}
    missing = sorted(wanted - gradients.reached)
    require(
        not missing, f"no gradient reached {', '.join(missing)}: use or remove what is not trained"
    )
    if gradients.interests is not None:
        for number, total in enumerate(gradients.interests.tolist()):
            require(
                total > 0,
                f"interest {number} of {len(gradients.interests)} in user_vectors got no gradient",
            )
    own = type(model).user_vectors is not SequenceModel.user_vectors
    require(
        not own or model.target_aware or gradients.interests is not None,
        "the loss never asked the model's own user_vectors",
    )


def check_ranks(trained: TrainedModel) -> None:
    """The ranks of `evaluate` are the places in the lists of `recommend`."""
    recommender, log = trained.recommender, trained.log
    assert recommender.folder is not None
    evaluate(recommender, trained.histories)
    ranks = pl.read_parquet(recommender.folder / "ranks.parquet")
    without_last = log.filter(pl.int_range(pl.len()).over("user") < pl.len().over("user") - 1)
    before = trained.prepared("before", without_last)
    every = recommender.recommend(data=before, k=trained.histories.n_items, exclude_seen=False)
    unseen = recommender.recommend(data=before, k=trained.histories.n_items)
    ids = trained.histories.user_ids
    for row in ranks.iter_rows(named=True):
        user = ids[row["user"]]
        target = log.filter(pl.col("user") == user)["item"][-1]
        seen = set(without_last.filter(pl.col("user") == user)["item"])
        mine = every.filter(pl.col("user") == user)
        scores = dict(zip(mine["item"], mine["score"], strict=True))
        listed = unseen.filter(pl.col("user") == user)["item"]
        require(
            set(listed) == scores.keys() - seen,
            f"recommend lists {len(listed)} unseen items of user {user}, not "
            f"{len(scores.keys() - seen)}",
        )
        _within("unfiltered rank", user, row["rank_unfiltered"], scores, target)
        others = {item: x for item, x in scores.items() if item not in seen or item == target}
        _within("rank", user, row["rank"], others, target)


def _within(what: str, user: object, rank: int, scores: dict[str, float], target: str) -> None:
    """A rank lies where the scores put the target; ties count against it."""
    own = scores[target]
    room = ROUNDING * max(1.0, abs(own))
    best = 1 + sum(x > own + room for item, x in scores.items() if item != target)
    worst = sum(x >= own - room for x in scores.values())
    place = str(best) if best == worst else f"{best} to {worst}"
    require(
        best <= rank <= worst,
        f"evaluate gives user {user} {what} {rank}, recommend's scores give {place}",
    )


def check_saving(trained: TrainedModel) -> None:
    """What is saved and loaded scores the same, and has the same digest of its states."""
    recommender = trained.recommender
    assert recommender.folder is not None
    loaded = load(recommender.folder)
    require(
        loaded.state_digest == recommender.state_digest, "state_digest differs after save and load"
    )
    h, again = (_last_h(trained, one.model) for one in (recommender, loaded))
    same("h after save and load", again, h, 0.0)
    scores = recommender.model.score(h)
    same("scores after save and load", loaded.model.score(again), scores, 0.0)


def check_new_items(trained: TrainedModel) -> None:
    """Items that are added to the catalog leave states, h and scores of the old ones alone."""
    trained.sequence()
    old = trained.recommender
    try:
        new = old.with_items(["new item 1", "new item 2"])
    except RuntimeError as error:
        line = str(error).strip().splitlines()[-1].strip()
        raise CheckFailed(f"name every table with a row per item in item_tables: {line}") from error
    require(
        new.state_digest == old.state_digest,
        "state_digest changes when items are added: name every table by item in item_tables",
    )
    h = _last_h(trained, old.model)
    same("h after two items were added", _last_h(trained, new.model), h, ROUNDING)
    scores, wanted = new.model.score(h), old.model.score(h)
    require(
        scores.shape[1] == wanted.shape[1] + 2,
        f"scores are of {scores.shape[1]} items after two were added to {wanted.shape[1]}",
    )
    same("scores of the old items", scores[:, 1 : wanted.shape[1]], wanted[:, 1:], ROUNDING)
    if new.model.streaming == "exact":
        assert isinstance(old.model, SequenceModel)
        assert isinstance(new.model, SequenceModel)
        batch = trained.small.batch
        items = batch.items.clamp_max(trained.histories.n_items)
        with torch.no_grad():
            states = [
                model.prefill(items, model.initial_state(len(items)), batch.context())[1]
                for model in (new.model, old.model)
            ]
        same_state(states[0], states[1], ROUNDING)


@torch.no_grad()
def _last_h(trained: TrainedModel, model: Model) -> Tensor:
    """h after the last event of three histories."""
    batch = trained.small.batch
    return model.encode(batch.items.clamp_max(trained.histories.n_items), batch.context())[:, -1]
