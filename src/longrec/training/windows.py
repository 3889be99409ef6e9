"""Batches through a model: histories that go on in the next batch have their states carried."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from longrec.data.batches import Batch
from longrec.mixers import Context
from longrec.mixers.base import map_state
from longrec.models import SequenceModel, UserState


class WindowReader:
    """Reads the batches of an epoch, one after the other.

    Attributes
    ----------
    model : SequenceModel
    state : of the rows of the last batch, detached; None where the next one continues none.
    """

    def __init__(self, model: SequenceModel) -> None:
        self.model = model
        self.state: UserState | None = None

    def read(self, batch: Batch) -> Tensor:
        """h (B, T, D), from the state of the window before where there is one."""
        ctx = Context(lengths=batch.lengths, times=batch.times, columns=batch.columns)
        if batch.continues is None and not batch.carries:
            masked = batch.targets > 0 if self.model.targets == "masked" else None
            return self.model.hidden(batch.items, ctx, masked)
        keep = batch.continues
        if keep is None:
            state = self.model.initial_state(len(batch.items))
        else:
            assert self.state is not None, "a batch continues another, whose state is not here"
            state = map_state(lambda part: part[keep], self.state)
        h, state = self.model.prefill(batch.items, state, ctx)
        self.state = map_state(Tensor.detach, state) if batch.carries else None
        return h

    def pass_over(self, batch: Batch) -> None:
        """Go past a batch of no rows."""
        self.state = self.model.initial_state(0) if batch.carries else None

    def carried(self) -> list[Tensor]:
        """The tensors of the state, in one order; [] without one."""
        parts: list[Tensor] = []
        if self.state is not None:
            map_state(lambda part: parts.append(part) or part, self.state)  # type: ignore[func-returns-value]
        return parts

    def carry(self, parts: Iterator[Tensor], device: torch.device) -> None:
        """Take a state's tensors back, as `carried` gave them."""
        self.state = map_state(lambda _: next(parts).to(device), self.model.initial_state(1))
