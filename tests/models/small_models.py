"""What the tests of models share: every registered model, small, and histories for it."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from longrec.checks.small_model import N_ITEMS as N
from longrec.checks.small_model import SmallModel
from longrec.models import MODELS, SequenceModel
from longrec.models.common.base import Model

__all__ = ["SEQUENCE", "N", "make", "near", "sequences", "small"]

SMALL = {"dim": 12, "ffn_dim": 16, "max_length": 30, "experts": 3, "band": 6, "heads": 2}
SMALL |= {"periods": 2, "positions": 20, "segment": 7}
SEQUENCE = [name for name, cls in MODELS.items() if issubclass(cls, SequenceModel)]


def small(name: str, **settings) -> SmallModel:
    keys = {field.name for field in fields(MODELS[name].config_class)}
    return SmallModel(name, {k: v for k, v in SMALL.items() if k in keys} | settings)


def make(name: str, kind: torch.dtype = torch.float64, **settings) -> Model:
    return small(name, **settings).build(kind)


def sequences(batch: int = 3, events: int = 30) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    items = torch.randint(1, N + 1, (batch, events), generator=random)
    return items, torch.randint(0, 9999, (batch, events), generator=random).cumsum(1) - 7000


def near(got: Tensor, wanted: Tensor, name: str = "") -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9, msg=lambda m: f"{name}: {m}")
