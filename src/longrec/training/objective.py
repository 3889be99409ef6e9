"""What a training step minimises: the chosen loss over all targets of a batch.

Losses see a model through `score` or, over the whole catalog, through `user_vectors`,
`item_vectors` and `item_bias`: what they train is what evaluation, retrieval and streams rank by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from longrec.config.training import TrainConfig
from longrec.core.errors import UsageError
from longrec.data.batches import TrainingData
from longrec.data.splits import training_counts
from longrec.models import SequenceModel
from longrec.models.common.sequence import PAIRS_AT_ONCE
from longrec.training.losses import (
    Taught,
    binary_cross_entropy,
    full_cross_entropy,
    generalised_binary_cross_entropy,
    sampled_softmax,
)

ROWS_PER_READ = 10
"""An item table is updated by rows if it has so many times the rows that a step reads."""


class Objective(NamedTuple):
    """What is minimised, in two parts, so that a step knows which items it reads.

    draw : () -> negatives (m,) int64 for one step.
    loss : (model, h (n, W), targets (n,), negatives (m,), what teachers say or None) -> their mean
        loss.
    """

    draw: Callable[[], Tensor]
    loss: Callable[[SequenceModel, Tensor, Tensor, Tensor, Taught | None], Tensor]


def check_loss(model: SequenceModel, config: TrainConfig) -> None:
    """Raise UsageError for a loss that cannot be had of such a model."""
    if config.loss == "full" and model.target_aware:
        raise UsageError(
            f"loss is 'full', but {model.name} scores each pair of history and item by a network, "
            "which for the whole catalog at every event is more than a step can do: set "
            "loss=sampled (or gbce, bce)"
        )


def reads_few_items(config: TrainConfig, n_items: int) -> bool:
    """Whether a step reads so few of the items that updating their rows alone pays."""
    read = config.batch_tokens + config.negatives
    return config.loss != "full" and n_items >= ROWS_PER_READ * read


def reads_items_by_rows(model: SequenceModel) -> bool:
    """Whether the model's item vectors are rows of a table: one that makes them may read all."""
    cls = type(model)
    return (
        cls.item_vectors is SequenceModel.item_vectors and cls.item_bias is SequenceModel.item_bias
    )


def make_objective(
    config: TrainConfig, data: TrainingData, device: torch.device, products: torch.dtype
) -> Objective:
    """The loss that the config names; over all items it multiplies in the type `products`."""
    if config.loss == "full":
        return _full(products, device)
    if config.loss == "sampled":
        return _sampled(config.negatives, data, device)
    n_items = data.histories.n_items
    pairwise: Callable[..., Tensor] = binary_cross_entropy
    if config.loss == "gbce":
        pairwise = partial(generalised_binary_cross_entropy, n_items=n_items, t=config.gbce_t)

    def draw() -> Tensor:
        """Negatives are drawn from all items alike, as these losses' papers do."""
        return torch.randint(1, n_items + 1, (config.negatives,), device=device)

    def loss(
        model: SequenceModel, h: Tensor, targets: Tensor, negatives: Tensor, _: Taught | None
    ) -> Tensor:
        return pairwise(*_scores(model, h, targets, negatives))

    return Objective(draw, loss)


def minimised(
    objective: Objective,
    model: SequenceModel,
    h: Tensor,
    targets: Tensor,
    negatives: Tensor,
    columns: Mapping[str, Tensor],
    taught: Taught | None = None,
) -> Tensor:
    """What a step minimises: the loss over the targets that are wanted, and the model's own terms.

    Parameters
    ----------
    objective : Objective
    model : SequenceModel
    h : Tensor
        (n, W).
    targets, negatives : Tensor
        (n,) and (m,) int64.
    columns : mapping
        Of the targets (n,), those that the model reads.
    taught : Taught or None
        What teachers say of them; the loss over all items alone learns from it.
    """
    wanted = model.wanted(columns)
    if wanted is None:
        loss = objective.loss(model, h, targets, negatives, taught)
    elif bool(wanted.any()):
        if taught is not None:
            taught = taught._replace(users=taught.users[wanted])
        chosen = h[wanted], targets[wanted], negatives, taught
        loss = objective.loss(model, *chosen) * wanted.to(h).mean()
    else:
        loss = h.sum() * 0.0
    own = model.own_loss(h, targets, columns)
    return loss if own is None else loss + own


def _full(products: torch.dtype, device: torch.device) -> Objective:
    none = torch.zeros(0, dtype=torch.int64, device=device)
    # In float32 h's own type counts: a model may be trained in float64.
    kind = None if products == torch.float32 else products

    def loss(
        model: SequenceModel, h: Tensor, targets: Tensor, _: Tensor, taught: Taught | None
    ) -> Tensor:
        users, items, bias = model.user_vectors(h), model.item_vectors(), model.item_bias()
        return full_cross_entropy(users, items, targets, bias, kind, taught)

    return Objective(lambda: none, loss)


def _sampled(number: int, data: TrainingData, device: torch.device) -> Objective:
    """Negatives follow the items' training counts, so that popular items are told apart too."""
    counts = training_counts(data.histories, data.train_end) + 1.0
    counts[0] = 0
    chance = torch.from_numpy(counts / counts.sum())
    cumulative = chance.cumsum(0).to(device)
    log_expected = (chance * number).log().float().to(device)

    def draw() -> Tensor:
        at = torch.rand(number, dtype=torch.float64, device=device)
        drawn = torch.searchsorted(cumulative, at, right=True)
        return drawn.clamp_max(len(cumulative) - 1)

    def loss(
        model: SequenceModel, h: Tensor, targets: Tensor, negatives: Tensor, _: Taught | None
    ) -> Tensor:
        return sampled_softmax(*_scores(model, h, targets, negatives), log_expected[negatives])

    return Objective(draw, loss)


def _scores(
    model: SequenceModel, h: Tensor, targets: Tensor, negatives: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores of the targets (n,) and negatives (n, m), and where a negative is another item."""
    hit, scores = _score(model, h, targets[:, None])[:, 0], _score(model, h, negatives)
    return hit, scores, negatives != targets[:, None]


def _score(model: SequenceModel, h: Tensor, items: Tensor) -> Tensor:
    """As model.score; a target-aware model's pairs are scored in parts, again for the gradient.

    So the network's inner values are held for PAIRS_AT_ONCE pairs and not for all n x m.
    """
    rows = max(1, PAIRS_AT_ONCE // items.shape[-1])
    if not model.target_aware or len(h) <= rows:
        return model.score(h, items)
    every = items.expand(len(h), -1)
    parts = [
        cast(Tensor, checkpoint(model.score, some, wanted, use_reentrant=False))
        for some, wanted in zip(h.split(rows), every.split(rows), strict=True)
    ]
    return torch.cat(parts)
