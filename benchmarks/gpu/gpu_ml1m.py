"""Train ELASTIC on ML-1M on a GPU until a validation NDCG@10 is reached: with torch alone.

Leave-one-out: a user's last event is left for the test, the one before it validates, and those
before train. Full ranking, seen items filtered, ties against the model. Every shape of batch is a
CUDA graph of its own: forward, backward, clipping, AdamW and the moving average of weights.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from gpu_timing import graphed
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from longrec.mixers import Context
from longrec.models import MODELS, SequenceModel, build_model

SHAPES = (64, 128, 256, 512, 1024, 4096)
"""Lengths to which rows are padded."""
RATE, BETAS, DECAY, CLIP, AVERAGE, WARMUP = 2e-3, (0.9, 0.98), 0.01, 1.0, 0.999, 200


@dataclass(frozen=True)
class Log:
    """Histories in order: items (n,) in 1..N, where each user's begin and end, and N."""

    items: NDArray[np.int64]
    bounds: NDArray[np.int64]
    n_items: int

    def lengths(self) -> NDArray[np.int64]:
        """Events per user."""
        return np.diff(self.bounds)


@dataclass(frozen=True)
class Rows:
    """Histories of about one length as a batch, on the device.

    items, targets : (B, T), 0 at padding; lengths : (B,).
    """

    items: Tensor
    targets: Tensor
    lengths: Tensor


def read_log(path: Path, user: str = "user_id", item: str = "item_id") -> Log:
    """A Parquet file of events in order of time (`position`, else `timestamp`, else the rows').

    Users with fewer than four events are left out: nothing of them would train.
    """
    import pyarrow.parquet as parquet

    table = parquet.read_table(path)
    order = next((n for n in ("position", "timestamp") if n in table.column_names), None)
    users, items = (table[name].to_numpy() for name in (user, item))
    place = np.arange(len(users)) if order is None else table[order].to_numpy()
    by_time = np.lexsort((place, users))
    known, items = np.unique(items[by_time], return_inverse=True)
    _, number, count = np.unique(users[by_time], return_inverse=True, return_counts=True)
    some = count >= 4
    bounds = np.concatenate([[0], count[some].cumsum()])
    return Log(items.astype(np.int64)[some[number]] + 1, bounds, len(known))


def made_log(path: Path) -> Path:
    """Write a small log in which each event follows from the one before, to see that all runs."""
    import pyarrow
    import pyarrow.parquet as parquet

    users, place = np.divmod(np.arange(40 * 24), 24)
    columns = {"user_id": users, "item_id": (7 * users + 3 * place) % 30, "position": place}
    parquet.write_table(pyarrow.table(columns), path)
    return path


def rows_of(log: Log, users: NDArray[np.int64], inputs: NDArray[np.int64], width: int) -> Rows:
    """The first inputs[i] events of each user, in rows of `width`, and the events after them."""
    place = np.arange(width)
    real = place < inputs[:, None]
    at = np.where(real, log.bounds[users][:, None] + place, 0)
    items, targets = (np.where(real, log.items[at + later], 0) for later in (0, 1))
    items, targets, lengths = (torch.from_numpy(part) for part in (items, targets, inputs))
    return Rows(items, targets, lengths)


def shaped(inputs: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Widths, and which rows are padded to each: to the next of SHAPES."""
    widths = np.array([*SHAPES, max(int(inputs.max()), SHAPES[-1] + 1)])
    which = np.searchsorted(widths, inputs)
    for number, width in enumerate(widths):
        if (which == number).any():
            yield int(width), np.flatnonzero(which == number)


def batches(log: Log, tokens: int, random: np.random.Generator) -> list[tuple[int, Rows]]:
    """An epoch: every training event but a history's first is a target once; full shapes alone.

    The last rows of a shape are filled up with empty ones.
    """
    inputs = log.lengths() - 3  # inputs end one before the last training event
    found = []
    for width, users in shaped(inputs):
        size = max(tokens // width, 1)
        users = random.permutation(users)
        for start in range(0, len(users), size):
            some = users[start : start + size]
            rows = rows_of(log, some, inputs[some], width)
            short = size - len(some)
            if short:
                rows = Rows(
                    pad(rows.items, (0, 0, 0, short)),
                    pad(rows.targets, (0, 0, 0, short)),
                    pad(rows.lengths, (0, short)),
                )
            found.append((width, rows))
    return [found[n] for n in random.permutation(len(found))]


class Trainer:
    """A model, its optimiser and moving average, and one recorded step per shape of batch."""

    def __init__(self, model: SequenceModel, device: str) -> None:
        self.model, self.device = model, device
        self.average = copy.deepcopy(model).eval().requires_grad_(False)
        cuda = device == "cuda"
        # Tensors, so that a recorded step reads what they hold when it is replayed.
        self.rate = torch.tensor(RATE, device=device)
        self.weight = torch.tensor(1 - AVERAGE, device=device)
        self.adam = torch.optim.AdamW(
            model.parameters(), self.rate, BETAS, weight_decay=DECAY, fused=cuda, capturable=cuda
        )
        self.recorded: dict[int, tuple[Rows, Callable[[], None]]] = {}
        self.number = 0

    def update(self, rows: Rows) -> None:
        """One step; all of it may be recorded."""
        self.adam.zero_grad(set_to_none=True)
        with torch.autocast(self.device, torch.bfloat16, cache_enabled=False):
            h = self.model.hidden(rows.items, Context(lengths=rows.lengths))
            logits = h.flatten(0, 1) @ self.model.item_vectors()[1:].t()
        loss = cross_entropy(logits.float(), rows.targets.flatten() - 1, ignore_index=-1)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP, foreach=True)
        self.adam.step()
        with torch.no_grad():
            for mine, new in zip(self.average.parameters(), self.model.parameters(), strict=True):
                mine.lerp_(new, self.weight)

    def step(self, width: int, rows: Rows) -> None:
        """Update by a batch: recorded at the first of its shape, replayed from then on."""
        number = self.number
        self.number += 1
        self.rate.fill_(RATE * min(1.0, (number + 1) / WARMUP))
        self.weight.fill_(1 - min(AVERAGE, (1 + number) / (10 + number)))
        if width not in self.recorded:
            here = Rows(*(part.to(self.device) for part in vars(rows).values()))
            self.recorded[width] = here, self._record(here)
            return
        here, replay = self.recorded[width]
        for mine, new in zip(vars(here).values(), vars(rows).values(), strict=True):
            mine.copy_(new.pin_memory() if self.device == "cuda" else new, non_blocking=True)
        replay()

    def _record(self, rows: Rows) -> Callable[[], None]:
        return graphed(lambda: self.update(rows), self.device == "cuda")


@torch.inference_mode()
def ndcg10(model: SequenceModel, log: Log, device: str) -> float:
    """Of the validation events, by full ranking; seen items are filtered, ties count against."""
    inputs, total = log.lengths() - 2, 0.0
    for width, users in shaped(inputs):
        size = max(262_144 // width, 1)
        for start in range(0, len(users), size):
            some = users[start : start + size]
            rows = rows_of(log, some, inputs[some], width)
            items, lengths = rows.items.to(device), rows.lengths.to(device)
            row = torch.arange(len(some), device=device)
            with torch.autocast(device, torch.bfloat16):
                h = model.hidden(items, Context(lengths=lengths))[row, lengths - 1]
            scores = h.float() @ model.item_vectors().t()
            target = rows.targets.to(device)[row, lengths - 1]
            own = scores.gather(1, target[:, None])
            # Padding repeats index 0, which is no item; the target is never filtered.
            scores.scatter_(1, items, -torch.inf)
            scores[:, 0] = -torch.inf
            scores[row, target] = -torch.inf
            rank = 1 + (scores >= own).sum(1)
            total += float(((rank <= 10) / (rank + 1).double().log2()).sum())
    return total / len(inputs)


def train(
    path: Path, device: str, target: float, small: bool = False, seconds: float = 75.0
) -> Iterator[tuple[float, float]]:
    """Train until `target` or for so many seconds; yields (seconds, best NDCG@10) as it improves.

    The clock starts before the first step, when the log is read and the kernels are compiled, as
    they are once per machine; recording the graphs counts.
    """
    log = read_log(path)
    random = np.random.default_rng(0)
    trainer = Trainer(small_model(log.n_items, small).to(device).train(), device)
    compile_kernels(trainer.model, device)
    began, best, spent = time.perf_counter(), -1.0, 0.0
    while best < target and spent < (2.0 if small else seconds):
        for width, rows in batches(log, 1024 if small else 8192, random):
            trainer.step(width, rows)
        found = ndcg10(trainer.average, log, device)
        spent = time.perf_counter() - began
        if found > best:
            best = found
            yield spent, best


def small_model(n_items: int, small: bool) -> SequenceModel:
    """ELASTIC as its defaults have it: width 64, 2 layers, 2 heads, 16 experts."""
    torch.manual_seed(0)
    sizes = {"dim": 16, "layers": 1} if small else {}
    model = build_model("elastic", MODELS["elastic"].config_class(**sizes), n_items)
    assert isinstance(model, SequenceModel)
    return model


def compile_kernels(model: SequenceModel, device: str) -> None:
    """One forward and backward, after which the model's kernels are compiled and tuned."""
    items = torch.ones(2, SHAPES[0], dtype=torch.int64, device=device)
    with torch.autocast(device, torch.bfloat16, cache_enabled=False):
        h = model.hidden(items, Context(lengths=torch.full((2,), SHAPES[0], device=device)))
    h.float().sum().backward()
    model.zero_grad(set_to_none=True)
    if device == "cuda":
        torch.cuda.synchronize()
