"""What a training step minimises: the chosen loss over all targets of a batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from longrec.config.training import TrainConfig
from longrec.data.batches import TrainingData
from longrec.data.splits import training_events
from longrec.models import SequenceModel
from longrec.training.losses import (
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
    loss : (model, h (n, D), targets (n,), negatives (m,)) -> their mean loss.
    """

    draw: Callable[[], Tensor]
    loss: Callable[[SequenceModel, Tensor, Tensor, Tensor], Tensor]


def reads_few_items(config: TrainConfig, n_items: int) -> bool:
    """Whether a step reads so few of the items that updating their rows alone pays."""
    read = config.batch_tokens + config.negatives
    return config.loss != "full" and n_items >= ROWS_PER_READ * read


def make_objective(
    config: TrainConfig, data: TrainingData, device: torch.device, products: torch.dtype
) -> Objective:
    """The loss that the config names; over all items it multiplies in the type `products`."""
    if config.loss == "full":
        return _full(products, device)
    if config.loss == "sampled":
        return _sampled(config.negatives, data, device)
    pairwise: Callable[..., Tensor] = binary_cross_entropy
    if config.loss == "gbce":
        pairwise = partial(generalised_binary_cross_entropy, t=config.gbce_t)
    n_items = data.histories.n_items

    def draw() -> Tensor:
        """Negatives are drawn from all items alike, as these losses' papers do."""
        return torch.randint(1, n_items + 1, (config.negatives,), device=device)

    def loss(model: SequenceModel, h: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
        return pairwise(h, model.item_vectors(), targets, negatives, sparse=model.sparse_items)

    return Objective(draw, loss)


def _full(products: torch.dtype, device: torch.device) -> Objective:
    none = torch.zeros(0, dtype=torch.int64, device=device)
    # In float32 h's own type counts: a model may be trained in float64.
    kind = None if products == torch.float32 else products

    def loss(model: SequenceModel, h: Tensor, targets: Tensor, _: Tensor) -> Tensor:
        return full_cross_entropy(h, model.item_vectors(), targets, kind)

    return Objective(lambda: none, loss)


def _sampled(number: int, data: TrainingData, device: torch.device) -> Objective:
    """Negatives follow the items' training counts, so that popular items are told apart too."""
    histories = data.histories
    items = histories.items[training_events(histories.offsets, data.train_end)]
    counts = np.bincount(items, minlength=histories.n_items + 1) + 1.0
    counts[0] = 0
    chance = torch.from_numpy(counts / counts.sum())
    cumulative = chance.cumsum(0).to(device)
    log_expected = (chance * number).log().float().to(device)

    def draw() -> Tensor:
        at = torch.rand(number, dtype=torch.float64, device=device)
        drawn = torch.searchsorted(cumulative, at, right=True)
        return drawn.clamp_max(len(cumulative) - 1)

    def loss(model: SequenceModel, h: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
        items = model.item_vectors()
        return sampled_softmax(h, items, targets, negatives, log_expected, model.sparse_items)

    return Objective(draw, loss)
