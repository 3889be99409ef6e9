"""What the tests of models share: every registered model, small, and histories for it."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from longrec.models import MODELS, CountingModel, SequenceModel, build_model
from longrec.models.common.base import Model

N = 40
SMALL = {"dim": 12, "ffn_dim": 16, "max_length": 30, "experts": 3, "band": 6, "heads": 2}
SEQUENCE = [name for name, cls in MODELS.items() if issubclass(cls, SequenceModel)]


def make(name: str, kind: torch.dtype = torch.float64, **settings) -> Model:
    keys = {field.name for field in fields(MODELS[name].config_class)}
    chosen = {k: v for k, v in SMALL.items() if k in keys} | settings
    torch.manual_seed(0)
    model = build_model(name, MODELS[name].config_class(**chosen), N)
    if isinstance(model, CountingModel):
        items = torch.randint(1, N + 1, (500,))
        model.count(torch.cat([torch.zeros(1, dtype=torch.int64), items[:-1]]), items)
    return model.to(kind).eval()


def sequences(batch: int = 3, events: int = 30) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    items = torch.randint(1, N + 1, (batch, events), generator=random)
    return items, torch.randint(0, 9999, (batch, events), generator=random).cumsum(1) - 7000


def near(got: Tensor, wanted: Tensor, name: str = "") -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9, msg=lambda m: f"{name}: {m}")
