"""The rule of rows.py as it is stated: every row in every step, written as a loop."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class PlainRows:
    """What RowAdam does, without waiting: no row is ever behind."""

    table: Tensor
    average: Tensor
    beta1: float
    beta2: float
    weight_decay: float

    def __post_init__(self) -> None:
        self.table, self.average = self.table.detach(), self.average.detach()
        self.first, self.second = torch.zeros_like(self.table), torch.zeros_like(self.table)

    def step(self, rows: Tensor, gradient: Tensor, number: int, lr: float, decay: float) -> None:
        t, place = number + 1, {int(row): n for n, row in enumerate(rows)}
        for row in range(len(self.table)):
            self.table[row] *= 1 - lr * self.weight_decay
            self.first[row] *= self.beta1
            self.second[row] *= self.beta2
            if row in place:
                g = gradient[place[row]]
                self.first[row] += (1 - self.beta1) * g
                self.second[row] += (1 - self.beta2) * g**2
                first = self.first[row] / (1 - self.beta1**t)
                second = self.second[row] / (1 - self.beta2**t)
                self.table[row] -= lr * first / (second.sqrt() + 1e-8)
        self.average *= decay
        self.average += (1 - decay) * self.table

    def refresh(self, read: Tensor) -> None:
        """Nothing to do."""

    def settle(self) -> None:
        """Nothing to do."""

    def tensors(self) -> dict[str, Tensor]:
        """Nothing that a checkpoint should hold."""
        return {}
