"""What a training step minimises: the chosen loss over all targets of a batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from longrec.data.batches import TrainingData
from longrec.data.splits import training_events
from longrec.losses import (
    bayesian_personalised_ranking,
    binary_cross_entropy,
    full_cross_entropy,
    generalised_binary_cross_entropy,
    sampled_softmax,
)
from longrec.models import SequenceModel
from longrec.training.config import TrainConfig

Objective = Callable[[SequenceModel, Tensor, Tensor], Tensor]
Pairwise = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def make_objective(config: TrainConfig, data: TrainingData, device: torch.device) -> Objective:
    """A function of (model, h (n, D), targets (n,)) that gives the mean loss."""
    match config.loss:
        case "full":
            return lambda model, h, targets: full_cross_entropy(h, model.item_vectors(), targets)
        case "sampled":
            return _sampled(config.negatives, data, device)
        case "gbce":
            gbce = partial(generalised_binary_cross_entropy, t=config.gbce_t)
            return _uniform(gbce, config.negatives)
        case "bce":
            return _uniform(binary_cross_entropy, config.negatives)
        case "bpr":
            return _uniform(bayesian_personalised_ranking, config.negatives)


def _sampled(number: int, data: TrainingData, device: torch.device) -> Objective:
    """Negatives follow the items' training counts, so that popular items are told apart too."""
    histories = data.histories
    items = histories.items[training_events(histories.offsets, data.train_end)]
    counts = np.bincount(items, minlength=histories.n_items + 1) + 1.0
    counts[0] = 0
    chance = torch.from_numpy(counts / counts.sum())
    cumulative = chance.cumsum(0).to(device)
    log_expected = (chance * number).log().float().to(device)

    def sampled(model: SequenceModel, h: Tensor, targets: Tensor) -> Tensor:
        draw = torch.rand(number, dtype=torch.float64, device=device)
        drawn = torch.searchsorted(cumulative, draw, right=True).clamp_max(len(cumulative) - 1)
        return sampled_softmax(h, model.item_vectors(), targets, drawn, log_expected)

    return sampled


def _uniform(loss: Pairwise, number: int) -> Objective:
    """Negatives are drawn from all items alike, as these losses' papers do."""

    def pairwise(model: SequenceModel, h: Tensor, targets: Tensor) -> Tensor:
        items = model.item_vectors()
        return loss(h, items, targets, torch.randint(1, len(items), (number,), device=h.device))

    return pairwise
