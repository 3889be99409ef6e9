"""Time one optimiser step on a table of M rows, on one thread: all rows, or only those touched.

    taskset -c 0 python benchmarks/rows.py [--touched 512] [--width 64] [--repeats 30]

Both read the same rows, some of them twice, and do what follows the backward pass: clipping, AdamW
and the moving average. Prints medians in milliseconds of interleaved repeats, their ratio, what the
backward pass of the reading itself takes with a dense and with a sparse gradient, and, last, what
settling all rows takes, which happens once per validation.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from longrec.config.training import TrainConfig
from longrec.models import ParameterGroup, SequenceModel
from longrec.training.optimiser import Optimiser

HEAD = "{:>9}  {:>10}  {:>10}  {:>6}  {:>12}  {:>12}  {:>8}"
LINE = "{:>9,}  {:>10.3f}  {:>10.3f}  {:>6.2f}  {:>12.3f}  {:>12.3f}  {:>8.1f}"


class Table(nn.Module):
    """A table whose rows are read."""

    def __init__(self, rows: int, width: int, sparse: bool) -> None:
        super().__init__()
        self.sparse, self.slots = sparse, nn.Parameter(torch.randn(rows, width) * 0.02)

    def forward(self, read: Tensor) -> Tensor:
        return embedding(read, self.slots, sparse=self.sparse)


class Trained(nn.Module):
    """What an optimiser asks of a model, around one table."""

    def __init__(self, table: Table) -> None:
        super().__init__()
        self.table = table
        self.rest = nn.Linear(1, 1)  # without a dense parameter AdamW refuses to be built

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup([name for name, _ in self.named_parameters()])]

    def sparse_tables(self) -> list[str]:
        return ["table.slots"] if self.table.sparse else []

    def item_tables(self) -> list[str]:
        return []


class Case:
    """One way to update one table, and the seconds that it took."""

    def __init__(self, rows: int, width: int, sparse: bool) -> None:
        self.table = Table(rows, width, sparse)
        model = cast(SequenceModel, Trained(self.table))
        average = copy.deepcopy(model).requires_grad_(False)
        self.optimiser = Optimiser(model, average, TrainConfig())
        self.backward: list[float] = []
        self.step: list[float] = []

    def run(self, number: int, read: Tensor) -> None:
        """One step, timed."""
        self.optimiser.zero_grad()
        loss = self.table(read).square().sum()
        self.backward.append(seconds(loss.backward))
        self.step.append(seconds(lambda: self.optimiser.step(number)))


def seconds(do: Callable[[], object]) -> float:
    """How long something takes."""
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


def middle(taken: list[float]) -> float:
    """The median in milliseconds, without the first rounds, which warm up."""
    return 1e3 * statistics.median(taken[3:])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--touched", type=int, default=512, help="rows read per step")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=30)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    names = ("M", "step all", "by rows", "ratio", "back. dense", "back. sparse", "settle")
    print(HEAD.format(*names))
    for power in range(10, 21):
        rows = 2**power
        dense, lazy = (Case(rows, asked.width, sparse) for sparse in (False, True))
        for number in range(3 + asked.repeats):
            read = torch.randint(rows, (asked.touched,))
            dense.run(number, read)
            lazy.run(number, read)
        settled = 1e3 * seconds(lazy.optimiser.settle)
        steps, backwards = (middle(dense.step), middle(lazy.step)), (dense.backward, lazy.backward)
        taken = (*steps, steps[0] / steps[1], *map(middle, backwards), settled)
        print(LINE.format(rows, *taken))


if __name__ == "__main__":
    main()
