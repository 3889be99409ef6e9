"""One pass of what a cell is of: forward, forward and backward, or a step from a state."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from longrec.config.training import TrainConfig
from longrec.mixers import Context, StreamingMixer
from longrec.mixers.base import EMPTY
from longrec.mixers.product_keys import InterestMemory
from longrec.models import SequenceModel
from longrec.training.losses import full_cross_entropy, sampled_softmax
from longrec.training.optimiser import Optimiser
from longrec_bench.cost.subjects import DIM, ITEMS, Task, make_mixer, make_model, streams

WINDOW = 4096
"""Events read at once by what carries a state on."""
FEW = 64
"""Events of the pass that only brings in the code."""
NEGATIVES = 512
TOPK = 8


@dataclass(frozen=True)
class Work:
    """What a process does again and again.

    Attributes
    ----------
    run : one pass over the cell's length.
    load : a small one, so that code and tables are in memory before memory is measured.
    prepare : called before each pass; neither timed nor measured.
    """

    run: Callable[[], object]
    load: Callable[[], object]
    prepare: Callable[[], object] = lambda: None


def make_work(task: Task) -> Work:
    """Build what a cell is of, with random weights and inputs."""
    match task["kind"]:
        case "bank":
            return _BANKS[task["name"]](task)
        case "loss":
            return _loss(task)
        case _:
            return _reader(task)


class _Reads:
    """A mixer or a model, and the histories that it reads: vectors, or items."""

    def __init__(self, task: Task, **settings: Any) -> None:
        batch, length = task["batch"], task["length"]
        self.module: nn.Module
        self.call: Callable[[Tensor, Context], Tensor]
        if task["kind"] == "mixer":
            mixer = make_mixer(task["name"])
            self.module, self.call, needs_times = mixer, mixer, mixer.reads_times
            self.data = torch.randn(batch, length, DIM)
        else:
            model = make_model(task["name"], length, **settings)
            self.module, self.call, needs_times = model, model.hidden, model.reads_times
            self.data = torch.randint(1, ITEMS + 1, (batch, length))
        self.streams = streams(task["kind"], task["name"])
        self.length = length
        gaps = torch.randint(1, 3600, (batch, length)) if needs_times else None
        self.times = None if gaps is None else gaps.cumsum(1)

    def some(self, start: int, end: int) -> tuple[Tensor, Context]:
        """A part of all histories, with its times."""
        if start == 0 and end == self.length:
            return self.data, EMPTY if self.times is None else Context(times=self.times)
        ctx = EMPTY if self.times is None else Context(times=self.times[:, start:end])
        return self.data[:, start:end], ctx

    @torch.no_grad()
    def read(self, length: int) -> Any:
        """The first events without gradients; in windows if there is a state to carry on."""
        if not self.streams or length <= WINDOW:
            return self.call(*self.some(0, length))
        return self.state_after(length)

    @torch.no_grad()
    def state_after(self, length: int) -> Any:
        """The state after the first events; the outputs are let go."""
        module = cast(StreamingMixer | SequenceModel, self.module)
        state: Any = module.initial_state(len(self.data))
        for start in range(0, length, WINDOW):
            x, ctx = self.some(start, min(start + WINDOW, length))
            state = module.prefill(x, state, ctx)[1]
        return state


def _reader(task: Task) -> Work:
    reads = _Reads(task)
    few = min(FEW, reads.length)
    match task["pass"]:
        case "forward":
            reads.module.eval()
            return Work(lambda: reads.read(reads.length), lambda: reads.read(few))
        case "step":
            reads.module.eval()
            return _steps(reads)
    slope = torch.randn(task["batch"], reads.length, DIM)
    if task["kind"] == "mixer":
        reads.data.requires_grad_()

    def learn(length: int) -> None:
        y = reads.call(*reads.some(0, length))
        y.backward(slope[:, :length])

    def prepare() -> None:
        reads.module.zero_grad()
        reads.data.grad = None

    return Work(lambda: learn(reads.length), lambda: learn(few), prepare)


def _steps(reads: _Reads) -> Work:
    """Steps on and on from the state after the histories."""
    module, state = reads.module, reads.state_after(reads.length)
    x, ctx = reads.some(reads.length - 1, reads.length)
    times = None if ctx.times is None else ctx.times[:, 0]

    @torch.no_grad()
    def step() -> None:
        nonlocal state
        if isinstance(module, SequenceModel):
            _, state = module.step(x[:, 0], state, times)
        else:
            _, state = cast(StreamingMixer, module).step(x[:, 0], state, Context(times=times))

    return Work(step, step)


@torch.no_grad()
def _read_bank(task: Task) -> Work:
    bank = InterestMemory(DIM, task["slots"], TOPK).eval()
    questions = torch.randn(task["batch"], DIM)

    @torch.no_grad()
    def read() -> Tensor:
        return bank.vectors(bank(questions))

    return Work(read, read)


def _train_with_bank(task: Task) -> Work:
    """A whole training step of a model with a bank, but for the loss over the catalog."""
    of_model = task | {"kind": "model", "name": "elastic"}
    reads = _Reads(of_model, memory_slots=task["slots"], memory_topk=TOPK)
    model = cast(SequenceModel, reads.module.train())
    average = copy.deepcopy(model).requires_grad_(False)
    optimiser = Optimiser(model, average, TrainConfig(), model.sparse_tables())
    slope = torch.randn(task["batch"], reads.length, DIM)
    number = 0

    def learn() -> None:
        nonlocal number
        optimiser.zero_grad()
        reads.call(*reads.some(0, reads.length)).backward(slope)
        optimiser.step(number)
        number += 1

    def prepare() -> None:
        reads.data.random_(1, ITEMS + 1)  # other histories, other slots

    return Work(learn, learn, prepare)


def _stream_with_bank(task: Task) -> Work:
    of_model = task | {"kind": "model", "name": "elastic"}
    reads = _Reads(of_model, memory_slots=task["slots"], memory_topk=TOPK)
    reads.module.eval()
    return _steps(reads)


_BANKS: dict[str, Callable[[Task], Work]] = {
    "read": _read_bank,
    "training": _train_with_bank,
    "stream": _stream_with_bank,
}


def _loss(task: Task) -> Work:
    """A loss over a catalog, for user vectors and an item table that learn."""
    targets, catalog = task["batch"], task["catalog"]
    h = torch.randn(targets, DIM, requires_grad=True)
    items = (torch.randn(catalog + 1, DIM) * 0.02).requires_grad_()
    wanted = torch.randint(1, catalog + 1, (targets,))
    negatives = torch.randint(1, catalog + 1, (NEGATIVES,))
    log_expected = torch.full((catalog + 1,), NEGATIVES / catalog).log()

    def learn(n: int) -> None:
        if task["name"] == "full":
            loss = full_cross_entropy(h[:n], items, wanted[:n])
        else:
            loss = sampled_softmax(h[:n], items, wanted[:n], negatives, log_expected)
        loss.backward()

    def prepare() -> None:
        h.grad = items.grad = None

    return Work(lambda: learn(targets), lambda: learn(1), prepare)
