"""AdamW for a table of which a step reads few rows: the rest is updated later, and exactly.

A step touches the rows in which its gradient is not zero. The rule:

- a row moves by Adam only in the steps that touch it;
- in the steps between, its moments decay (by beta1 and beta2), its weights decay (by 1 - lr wd) and
  its moving average follows its weights, as those of every row do under the dense AdamW.

Nothing of that second part depends on a gradient, so that it waits until the row is touched again
or everything is settled. Over steps with any lr_t and any decay d_t of the average, three numbers

    C_t = C_{t-1} (1 - lr_t wd)    D_t = D_{t-1} d_t    H_t = d_t H_{t-1} + (1 - d_t) C_t

take a row from step s to step t, with r = D_t / D_s:

    w_t = w_s C_t / C_s            average_t = r average_s + w_s (H_t - r H_s) / C_s

They are stored by step, and each row has a mark, the step that it is at. A step costs O(touched
rows).

A row that is read as it stands is read as of its last touch: its decay since is yet to come. The
memory bank reads rows through a LayerNorm, to which their scale means nothing. Item vectors are
read as they are, so that a step refreshes the rows that it is about to read.

Where a row is touched seldom its momentum is gone before the next touch, and it moved by a tenth of
what the dense AdamW, which spreads a gradient over the steps after it, moves it in all. Item
vectors, most of which are touched seldom, are therefore updated with beta1 = 0, to the same sum.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping

import torch
from torch import Tensor

from longrec.core.format import listed

STEPS = 1 << 16
"""Most steps in the history; then all rows are settled, at a cost shared by so many steps."""
SMALLEST_C = 1e-6
"""C may not fall below this either, so that H keeps its digits."""
BLOCK = 1 << 14
"""Rows that are settled at once."""


class RowAdam:
    """AdamW with a moving average, for one table with a sparse gradient.

    Parameters
    ----------
    table, average : Tensor
        Weights (M, D) and their moving average, both updated in place.
    beta1, beta2, weight_decay, eps : float
        As in torch.optim.AdamW. The bias correction counts all steps, as there, and not those that
        touched a row. With beta1 = 0 there is no first moment.
    """

    def __init__(
        self,
        table: Tensor,
        average: Tensor,
        beta1: float,
        beta2: float,
        weight_decay: float,
        eps: float = 1e-8,
    ) -> None:
        self.table, self.average = table.detach(), average.detach()
        self.beta1, self.beta2, self.weight_decay, self.eps = beta1, beta2, weight_decay, eps
        self.second = torch.zeros_like(self.table)
        self.first = self.second.clone() if beta1 else self.second[:, :0]
        self.marks = torch.zeros(len(table), dtype=torch.int32, device=table.device)
        # C, log D and H after each step since all rows were settled, in float64.
        self.history = torch.empty(STEPS + 1, 3, dtype=torch.float64, device=table.device)
        self._reset_history()

    def _reset_history(self) -> None:
        self.steps, self.now = 0, (1.0, 0.0, 0.0)
        self.history[0] = torch.tensor(self.now, dtype=torch.float64)

    def step(self, rows: Tensor, gradient: Tensor, number: int, lr: float, decay: float) -> None:
        """Do one step.

        Parameters
        ----------
        rows, gradient : Tensor
            Which rows are touched, (n,), each once, and their gradients, (n, D).
        number : int
            Steps done before.
        lr, decay : float
            Learning rate of this step, and the decay of its moving average.
        """
        shrink = 1 - lr * self.weight_decay
        if not shrink > 0:
            raise ValueError(
                f"learning_rate {lr} times weight_decay {self.weight_decay} is "
                f"{lr * self.weight_decay}; for a table updated by rows it must be below 1"
            )
        if self.steps == STEPS or self.now[0] * shrink < SMALLEST_C:
            self.settle()
        marks, table, first, second, average = current = self._current(rows)
        momentum = first.lerp_(gradient, 1 - self.beta1) if self.beta1 else gradient
        second.mul_(self.beta2).addcmul_(gradient, gradient, value=1 - self.beta2)
        root = (second / (1 - self.beta2 ** (number + 1))).sqrt_().add_(self.eps)
        # Not a product with 1 - lr wd, whose rounding in float32 adds up over thousands of steps.
        table.add_(table, alpha=-lr * self.weight_decay)
        table.addcdiv_(momentum, root, value=-lr / (1 - self.beta1 ** (number + 1)))
        average.lerp_(table, 1 - decay)

        c, log_d, h = self.now
        c *= shrink
        log_d += math.log(max(decay, sys.float_info.min))  # decay 0 leaves a finite logarithm
        self.steps, self.now = self.steps + 1, (c, log_d, decay * h + (1 - decay) * c)
        self.history[self.steps] = torch.tensor(self.now, dtype=torch.float64)
        marks.fill_(self.steps)
        self._write(rows, current)

    def refresh(self, read: Tensor) -> None:
        """Bring the rows that are about to be read, (n,) and perhaps repeated, up to date."""
        behind = read[self.marks.index_select(0, read) < self.steps].unique()
        if len(behind):
            self._write(behind, self._current(behind))

    def settle(self) -> None:
        """Bring every row up to date."""
        if not self.steps:
            return
        for begin in range(0, len(self.table), BLOCK):
            self._catch_up(*(part[begin : begin + BLOCK] for part in self._parts()))
        self.marks.zero_()
        self._reset_history()

    def _parts(self) -> tuple[Tensor, ...]:
        return self.marks, self.table, self.first, self.second, self.average

    def _current(self, rows: Tensor) -> list[Tensor]:
        """Copies of all parts of some rows (n,), brought up to date."""
        copies = [part.index_select(0, rows) for part in self._parts()]
        marks = copies[0]
        if (marks < self.steps).any():
            self._catch_up(*copies)
            marks.fill_(self.steps)
        return copies

    def _write(self, rows: Tensor, copies: list[Tensor]) -> None:
        for part, new in zip(self._parts(), copies, strict=True):
            part.index_copy_(0, rows, new)

    def _catch_up(
        self, marks: Tensor, table: Tensor, first: Tensor, second: Tensor, average: Tensor
    ) -> None:
        """Bring rows (n, D), marked (n,) with the steps that they are at, up to date in place."""
        c, log_d, h = self.now
        history = self.history.index_select(0, marks)[..., None]  # (n, 3, 1)
        c_then, log_d_then, h_then = history.unbind(1)
        gap = (self.steps - marks)[:, None].double()
        log_r = log_d - log_d_then
        away = -torch.expm1(log_r)  # 1 - r
        # By how much r and the share of w_s stay below 1 together, since weights decay meanwhile.
        # Written so, an average that equals its weights stays equal to them in any precision.
        short = away - (h - log_r.exp() * h_then) / c_then
        kind = table.dtype
        average.lerp_(table, away.to(kind)).addcmul_(table, short.to(kind), value=-1)
        table.addcmul_(table, (c / c_then - 1).to(kind))
        first.mul_(torch.pow(self.beta1, gap).to(kind))
        second.mul_(torch.pow(self.beta2, gap).to(kind))

    def tensors(self) -> dict[str, Tensor]:
        """What the next step depends on, besides the table and its average."""
        return {
            "first": self.first,
            "second": self.second,
            "marks": self.marks,
            "history": self.history[: self.steps + 1],
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what tensors() gave; ValueError says what does not fit."""
        mine = self.tensors()
        mine["history"] = self.history[: max(len(tensors.get("history", ())), 1)]
        check_tensors(tensors, mine)
        marks, history = tensors["marks"], tensors["history"]
        if len(marks) and not 0 <= int(marks.min()) <= int(marks.max()) < len(history):
            raise ValueError(f"marks lie outside the {len(history)} steps of the history")
        for name, tensor in tensors.items():
            mine[name].copy_(tensor)
        self.steps = len(history) - 1
        c, log_d, h = history[-1].tolist()
        self.now = (c, log_d, h)


def check_tensors(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless tensors have the names, types and shapes of those that are wanted."""
    if found.keys() != wanted.keys():
        raise ValueError(f"the state has {listed(sorted(found))}, not {listed(sorted(wanted))}")
    for name, other in wanted.items():
        tensor = found[name]
        if tensor.shape != other.shape or tensor.dtype != other.dtype:
            raise ValueError(
                f"{name} is {tensor.dtype} {tuple(tensor.shape)}, "
                f"not {other.dtype} {tuple(other.shape)}"
            )
