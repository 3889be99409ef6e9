"""The steps of a training with gradients summed by torch's own wrappers, to compare ours with.

All but the sums is ours: batches, loss, clipping, AdamW, average. Dense gradients alone.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from longrec.data.batches import Batch
from longrec.training.fit import _Fit
from longrec.training.objective import minimised
from longrec.training.optimiser import Optimiser


class Whole(nn.Module):
    """The loss as the forward of one module, which is what the wrappers follow."""

    def __init__(self, fit: _Fit) -> None:
        super().__init__()
        self.model = fit.model
        self.fit = [fit]  # which is no part of the module

    def forward(self, batch: Batch, targets: Tensor, negatives: Tensor) -> Tensor:
        [fit] = self.fit
        h = fit.reader.read(batch)[batch.targets > 0]
        return minimised(fit.objective, fit.model, h, targets, negatives, {})


class WrappedFit(_Fit):
    """A fit whose processes know nothing of each other but by the wrapper."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.whole = self.wrapped(Whole(self))
        self.optimiser = Optimiser(self.model, self.average, self.config)

    def wrapped(self, whole: Whole) -> nn.Module:
        raise NotImplementedError

    def step(self, batch: Batch) -> tuple[float, int, int]:
        targets = batch.targets[batch.targets > 0]
        loss = self.whole(batch, targets, self.objective.draw())
        own = float(loss.detach()) * len(targets), len(targets), float(batch.lengths.sum())
        value, number, events = self.processes.sums(*own)
        self.optimiser.zero_grad()
        # The wrappers divide by the number of processes; the mean is one over all targets.
        (loss * (len(targets) * self.processes.number / number)).backward()
        self.optimiser.step(self.status.total_steps)
        return value, int(number), int(events)


class DdpFit(WrappedFit):
    """Weights whole in each process, sums in parts while backward goes on."""

    def wrapped(self, whole: Whole) -> nn.Module:
        return DistributedDataParallel(whole)


class Fsdp2Fit(WrappedFit):
    """Weights, moments and average in parts; each block's are gathered before it is used."""

    def wrapped(self, whole: Whole) -> nn.Module:
        mesh = init_device_mesh(self.device.type, (self.processes.number,))
        for model in (self.model, self.average):
            for block in model.blocks:
                fully_shard(block, mesh=mesh)
        fully_shard(self.average, mesh=mesh)
        return fully_shard(whole, mesh=mesh)


WRAPPED = {"ddp": DdpFit, "fsdp2": Fsdp2Fit}
