"""What the tests of fitting share: small models and quick runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from longrec.config.training import TrainConfig
from longrec.data.histories import Histories
from longrec.data.splits import make_split
from longrec.models import MODELS, Model, build_model
from longrec.training.fit import fit
from longrec.training.progress import FitResult, OnEpoch, Show

QUICK = {"max_epochs": 2, "batch_tokens": 400, "warmup_steps": 5, "learning_rate": 1e-2}
SMALL: dict[str, Any] = {"dim": 16, "layers": 1, "ffn_dim": 16, "dropout": 0.0}


def model_of(name: str, n_items: int, **settings: Any) -> Model:
    torch.manual_seed(0)
    chosen = settings or (SMALL if name not in ("popularity", "last-item") else {})
    return build_model(name, MODELS[name].config_class(**chosen), n_items)


def run_of(
    model: Model,
    histories: Histories,
    folder: Path,
    protocol: str = "leave-one-out",
    show: Show | None = None,
    on_epoch: OnEpoch | None = None,
    **settings: Any,
) -> FitResult:
    folder.mkdir(exist_ok=True)
    config = TrainConfig(**(QUICK | settings))
    split = make_split(protocol, histories)
    return fit(model, histories, split, config, folder, show=show, on_epoch=on_epoch)
