"""What a training step minimises: the chosen loss over all targets of a batch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from longrec.data.batches import TrainingData
from longrec.data.splits import training_events
from longrec.losses import full_cross_entropy, sampled_softmax
from longrec.models import SequenceModel
from longrec.training.config import TrainConfig

Objective = Callable[[SequenceModel, Tensor, Tensor], Tensor]


def make_objective(config: TrainConfig, data: TrainingData, device: torch.device) -> Objective:
    """A function of (model, h (n, D), targets (n,)) that gives the mean loss."""
    if config.loss == "full":
        return lambda model, h, targets: full_cross_entropy(h, model.item_vectors(), targets)
    # Negatives follow the items' training counts, so that popular items are told apart too.
    histories = data.histories
    items = histories.items[training_events(histories.offsets, data.train_end)]
    counts = np.bincount(items, minlength=histories.n_items + 1) + 1.0
    counts[0] = 0
    chance = torch.from_numpy(counts / counts.sum())
    cumulative = chance.cumsum(0).to(device)
    log_expected = (chance * config.negatives).log().float().to(device)

    def sampled(model: SequenceModel, h: Tensor, targets: Tensor) -> Tensor:
        draw = torch.rand(config.negatives, dtype=torch.float64, device=device)
        drawn = torch.searchsorted(cumulative, draw, right=True).clamp_max(len(cumulative) - 1)
        return sampled_softmax(h, model.item_vectors(), targets, drawn, log_expected)

    return sampled
