"""Checks of what a model is made of and how it scores: settings, weights, vectors, pairs."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, fields

import torch
from torch import Tensor

from longrec.checks.compare import CheckFailed, NotApplicable, applies, finite, require, same
from longrec.checks.small_model import N_ITEMS, SmallModel
from longrec.config.border import is_frozen
from longrec.core.errors import UsageError
from longrec.core.format import listed
from longrec.models import CountingModel, build_model
from longrec.models.common.settings import parse_settings

TOLERANCE = 1e-9


def check_settings(small: SmallModel) -> None:
    """It is built from its defaults, and its settings come back from a file as they were."""
    cls = small.model_class.config_class
    require(
        is_frozen(cls),
        f"{cls.__name__} is not a frozen dataclass: write @dataclass(frozen=True)",
    )
    config = cls()
    for each in fields(config):
        value = getattr(config, each.name)
        plain = value is None or isinstance(value, bool | int | float | str | tuple)
        require(plain, f"setting {each.name} is a {type(value).__name__}: use plain values")
    model = build_model(small.name, config, N_ITEMS)
    require(
        getattr(model, "n_items", None) == N_ITEMS, f"n_items is not the {N_ITEMS} it was built for"
    )
    require(getattr(model, "config", None) == config, "config is not what it was built with")
    try:
        again, _ = parse_settings(small.name, asdict(config))
    except UsageError as error:
        raise CheckFailed(f"the default settings are refused when read from a file: {error}") from (
            error
        )
    require(again == config, f"the settings came back from a file as {again}, not {config}")
    try:
        parse_settings(small.name, small.model_class.paper_settings)
    except UsageError as error:
        raise CheckFailed(f"paper_settings are refused: {error}") from error


def check_weights(small: SmallModel) -> None:
    """Every weight is whole in memory: a fused optimiser would pair strided ones wrongly."""
    model = small.build(torch.float32)
    for name, tensor in model.state_dict().items():
        require(
            tensor.is_contiguous(),
            f"{name} of shape {tuple(tensor.shape)} has strides {tensor.stride()}: make it with "
            ".contiguous()",
        )


def check_groups(small: SmallModel) -> None:
    """Every parameter is in one of the `parameter_groups`, and in no other."""
    model = small.sequence(torch.float32)
    counts = Counter(name for group in model.parameter_groups() for name in group.names)
    names = dict(model.named_parameters()).keys()
    for wrong, what in (
        (sorted(names - counts.keys()), "in no group"),
        (sorted(counts.keys() - names), "in a group, but no parameters"),
        (sorted(name for name, count in counts.items() if count > 1), "in several groups"),
    ):
        require(not wrong, f"parameter_groups: {what}: {listed(wrong)}")


def check_scores(small: SmallModel) -> None:
    """Scores are one per item, padding is never scored, and some are scored as among all."""
    model, h = small.build(), _last_h(small)
    scores = model.score(h)
    require(
        scores.shape == (len(h), N_ITEMS + 1),
        f"score(h) has shape {tuple(scores.shape)}, not {(len(h), N_ITEMS + 1)}",
    )
    require((scores[:, 0] == -torch.inf).all(), f"padding is scored {scores[:, 0].tolist()}")
    finite("scores", scores[:, 1:])
    chosen = torch.tensor([7, 1, N_ITEMS, 7])
    same("score(h, items (C,))", model.score(h, chosen), scores[:, chosen], TOLERANCE)
    each = torch.stack([(chosen + row) % N_ITEMS + 1 for row in range(len(h))])
    same("score(h, items (n, C))", model.score(h, each), scores.gather(1, each), TOLERANCE)
    for row in range(len(h)):
        alone = model.score(h[row : row + 1])[:, 1:]
        same("scores of a user alone", alone, scores[row : row + 1, 1:], TOLERANCE)


def check_vectors(small: SmallModel) -> None:
    """A score is the best product of a user's vectors with the item's, and its bias."""
    model, h = small.sequence(), _last_h(small)
    applies(not model.target_aware, "it scores by score_pairs")
    users, vectors, bias = model.user_vectors(h), model.item_vectors(), model.item_bias()
    require(
        users.ndim == 3 and len(users) == len(h),
        f"user_vectors gives shape {tuple(users.shape)}, not (n, interests, width)",
    )
    require(
        vectors.shape == (N_ITEMS + 1, users.shape[-1]),
        f"item_vectors() has shape {tuple(vectors.shape)}, not {(N_ITEMS + 1, users.shape[-1])}",
    )
    require(not vectors[0].any(), "item_vectors()[0], padding, is not zero")
    products = (users @ vectors.t()).amax(1)
    each = torch.tensor([[3, 1, N_ITEMS], [5, 5, 2]])
    same("item_vectors(items)", model.item_vectors(each), vectors[each], TOLERANCE)
    some = model.item_bias(each)
    require((bias is None) == (some is None), "item_bias is None of all or of some items alone")
    if bias is not None and some is not None:
        require(bias.shape == (N_ITEMS + 1,), f"item_bias() has shape {tuple(bias.shape)}")
        same("item_bias(items)", some, bias[each], TOLERANCE)
        products = products + bias
    same("scores by vectors", products[:, 1:], model.score(h)[:, 1:], TOLERANCE)


def check_pairs(small: SmallModel) -> None:
    """A candidate is scored the same alone and among others, by `score_pairs`."""
    model, h = small.sequence(), _last_h(small)
    applies(model.target_aware, "it scores by vectors")
    items = torch.tensor([[3, 1, N_ITEMS], [5, 5, 2], [9, 3, 4]])[: len(h)]
    scores = model.score_pairs(h, items)
    require(
        scores.shape == items.shape,
        f"score_pairs of items {tuple(items.shape)} gives shape {tuple(scores.shape)}",
    )
    for place in range(items.shape[1]):
        one = model.score_pairs(h, items[:, place : place + 1])
        same("score_pairs of a candidate alone", one, scores[:, place : place + 1], TOLERANCE)
    same("scores by pairs", scores, model.score(h).gather(1, items), TOLERANCE)


def check_counts(small: SmallModel) -> None:
    """A model that counts knows the last `reach` items, and scores by its bias and its rows."""
    model, batch = small.build(), small.batch
    if not isinstance(model, CountingModel):
        raise NotApplicable("it is trained by gradient")
    reach, h = model.reach, model.encode(batch.items)
    for t in range(0, batch.items.shape[1], 7):
        last = batch.items[:, max(0, t + 1 - reach) : t + 1].flip(-1)
        wanted = torch.nn.functional.pad(last, (0, reach - last.shape[1]))[:, :reach]
        require(
            torch.equal(h[:, t, :reach], wanted),
            f"h after event {t} is not the last {reach} items, the latest first, and 0 before them",
        )
    bias = model.bias()
    require(
        bias.shape == (N_ITEMS + 1,),
        f"bias() has shape {tuple(bias.shape)}, not {(N_ITEMS + 1,)}",
    )
    recent = torch.cat([h[:, 0], h[:, -1]])[:, :reach]
    row, item, value = model.rows(recent)
    require(
        row.shape == item.shape == value.shape
        and ((row >= 0) & (row < len(recent)) & (item > 0) & (item <= N_ITEMS)).all()
        and len(torch.unique(row * (N_ITEMS + 1) + item)) == len(row),
        f"rows(recent) must be (row, item, value), each (m,): numbers of users, items from 1 to "
        f"{N_ITEMS}, each pair once",
    )
    finite("bias()", bias)
    finite("rows(recent)", value)
    for user in range(len(recent)):
        alone = model.rows(recent[user : user + 1])
        mine = row == user
        require(
            torch.equal(alone.item, item[mine]) and torch.equal(alone.value, value[mine]),
            "rows(recent) of a user alone are not those among others, to the bit",
        )


def _last_h(small: SmallModel) -> Tensor:
    """h after the last event of three histories."""
    batch = small.batch
    return small.build().encode(batch.items, batch.context())[:, -1].detach()
