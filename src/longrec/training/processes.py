"""Several processes that train one model: which part of the work is whose, and what they share.

A step's batch is formed as by one process, and each process takes its part of its rows. All hold
the same weights and do the same update, by gradients that are summed over them, so that how many
there are changes rounding alone. With one process nothing here does anything.

They are torch.distributed's (meeting.py). What ranks tell each other is numbers, JSON and tensors,
never a pickle.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

from longrec.core.errors import LongrecError, UsageError, first_line
from longrec.core.format import duration

ALONE_FROM = 1 << 16
"""Numbers from which a tensor travels by itself, where it stands; smaller ones go as one."""
PATIENCE = timedelta(hours=1)
"""Longest wait for the others: one may write a checkpoint or read a log. Who has ended is noticed
at once."""


class ProcessLost(LongrecError):
    """Another process of this training has ended; what it said tells why (exit status 75)."""

    exit_status = 75


class Processes(NamedTuple):
    """This process, and how many train with it.

    Attributes
    ----------
    rank : which one this is, from 0; rank 0 writes, shows and decides.
    number : of processes.
    """

    rank: int = 0
    number: int = 1

    @classmethod
    def here(cls) -> Processes:
        """Those of torch.distributed where it is set up; else this process alone."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def part(self, rows: int) -> slice:
        """Which of so many rows are this process's: runs of neighbours, in the order of ranks."""
        return slice(rows * self.rank // self.number, rows * (self.rank + 1) // self.number)

    def sums(self, *numbers: float) -> tuple[float, ...]:
        """The sum of each number over all processes."""
        if self.number == 1:
            return numbers
        found = torch.tensor(numbers, dtype=torch.float64)
        with _together():
            dist.all_reduce(found)
        return tuple(found.tolist())

    def of_first(self, *numbers: float) -> tuple[float, ...]:
        """The numbers that rank 0 has."""
        if self.number == 1:
            return numbers
        found = torch.tensor(numbers, dtype=torch.float64)
        with _together():
            dist.broadcast(found, 0)
        return tuple(found.tolist())

    def document_of_first(self, document: Any = None) -> Any:
        """What rank 0 has of what JSON can hold."""
        if self.number == 1:
            return document
        data = b"" if self.rank else json.dumps(document).encode()
        (size,) = self.of_first(len(data))
        told = torch.zeros(int(size), dtype=torch.uint8)
        if not self.rank:
            told = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        with _together():
            dist.broadcast(told, 0)
        return json.loads(told.numpy().tobytes())

    def check_same(self, call: Mapping[str, object]) -> None:
        """Raise UsageError where this process was called otherwise than rank 0."""
        mine = {name: repr(value) for name, value in call.items()}
        first = self.document_of_first(mine)
        for name in first | mine:
            if first.get(name) != mine.get(name):
                raise UsageError(
                    f"process {self.rank + 1} of {self.number} was started with {name} "
                    f"{mine.get(name, 'left out')}, the first one with "
                    f"{first.get(name, 'left out')}: give all the same command"
                )

    def as_first(self, tensors: Iterable[Tensor]) -> None:
        """Put in the place of each tensor what rank 0 has there.

        Generators give other last bits on other processors, seeded alike or not.
        """
        for x in tensors if self.number > 1 else ():
            flat = x.detach().contiguous()
            if flat.numel():
                with _together():
                    dist.broadcast(flat.flatten().view(torch.uint8), 0)
                x.detach().copy_(flat)

    def tensors_of_first(self, tensors: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The tensors on the CPU that rank 0 has; the others give none."""
        mine = tensors or {}
        if self.number == 1:
            return dict(mine)
        shapes = {
            name: [str(x.dtype).removeprefix("torch."), list(x.shape)] for name, x in mine.items()
        }
        found = {}
        for name, (kind, shape) in self.document_of_first(shapes).items():
            x = mine[name].contiguous() if name in mine else torch.empty(0)
            if self.rank:
                x = torch.empty(shape, dtype=getattr(torch, kind))
            with _together():
                dist.broadcast(x, 0)
            found[name] = x
        return found

    def all(self, rows: Tensor) -> Tensor:
        """The rows (n, ...) of all processes, of each its own number, in the order of ranks."""
        if self.number == 1:
            return rows
        counts = self.sums(*(float(len(rows) * (rank == self.rank)) for rank in range(self.number)))
        most = int(max(counts))
        mine = rows.new_zeros(most, *rows.shape[1:])
        mine[: len(rows)] = rows
        every = [torch.empty_like(mine) for _ in range(self.number)]
        with _together():
            dist.all_gather(every, mine)
        return torch.cat([x[: int(count)] for x, count in zip(every, counts, strict=True)])

    def exchange(self, rows: Tensor, give: Sequence[int], take: Sequence[int]) -> Tensor:
        """Give so many rows to each process, in their order, and take so many of each."""
        came = rows.new_empty(sum(take), *rows.shape[1:])
        with _together():
            dist.all_to_all_single(came, rows.contiguous(), list(take), list(give))
        return came

    def gather(self, x: Tensor, everywhere: bool) -> list[Tensor] | None:
        """The tensors, all of one shape, of all processes, in rank 0 or everywhere."""
        here = everywhere or not self.rank
        every = [torch.empty_like(x) for _ in range(self.number)] if here else None
        with _together():
            if everywhere:
                dist.all_gather(every, x)
            else:
                dist.gather(x, every)
        return every

    def scatter(self, parts: list[Tensor] | None, like: Tensor) -> Tensor:
        """Of the tensors that rank 0 has for each process this one's, of the shape of `like`."""
        mine = torch.empty_like(like)
        with _together():
            dist.scatter(mine, parts)
        return mine

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Put in the place of each tensor its sum over all processes."""
        if self.number == 1:
            return
        small: dict[torch.dtype, list[Tensor]] = {}
        for x in tensors:
            if x.numel() >= ALONE_FROM and x.is_contiguous():
                with _together():
                    dist.all_reduce(x)
            else:
                small.setdefault(x.dtype, []).append(x)
        for some in small.values():
            flat = torch.cat([x.flatten() for x in some])
            with _together():
                dist.all_reduce(flat)
            for x, summed in zip(some, flat.split([x.numel() for x in some]), strict=True):
                x.copy_(summed.view_as(x))

    def add_up_rows(self, rows: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (n,), each once, and their values (n, D), summed over all processes by rows."""
        if self.number == 1:
            return rows, values
        every, values = self.all(rows), self.all(values)
        size = (int(every.max()) + 1 if len(every) else 0, *values.shape[1:])
        # To the same bits everywhere, which index_add_ does not promise on a GPU.
        summed = torch.sparse_coo_tensor(every[None], values, size).coalesce()
        return summed.indices()[0], summed.values()


ALONE = Processes()


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        said = first_line(error)[:200]
        if re.search("time(d )?out", said, re.IGNORECASE):
            raise ProcessLost(
                f"another process of this training did not answer within "
                f"{duration(PATIENCE.total_seconds())} ({said}): see whether its machine and the "
                "network are up, and start all again with --resume"
            ) from error
        raise ProcessLost(
            f"this training lost another of its processes, whose own line says why ({said})"
        ) from error
