"""Checks of a model that has been trained on a tiny log: gradients, ranks, saving, new items."""

from __future__ import annotations

import polars as pl
import torch
from torch import Tensor

from longrec.checks.compare import CheckFailed, require, same, same_state
from longrec.checks.trained_model import FOLLOWS, TrainedModel
from longrec.core.errors import DataError, UsageError
from longrec.core.format import listed
from longrec.models import Model, SequenceModel
from longrec.recommender import load
from longrec.runs.evaluate import evaluate

ROUNDING = 1e-5


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
        not missing, f"no gradient reached {listed(missing)}: use or remove what is not trained"
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
    try:
        loaded = load(recommender.folder)
    except DataError as error:  # it asks what was scored before it was saved
        raise CheckFailed(f"what was saved does not load: {error}") from error
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
    except UsageError as error:
        raise CheckFailed(str(error)) from error
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
