"""One pass of what is measured: forward, forward and backward, or a step from a state."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import embedding

from longrec.config.training import TrainConfig
from longrec.mixers import Context, Mixer, StreamingMixer
from longrec.mixers.product_keys import InterestMemory
from longrec.models import SequenceModel
from longrec.training.losses import full_cross_entropy, sampled_softmax
from longrec.training.optimiser import Optimiser
from longrec_bench.cost.systems import DIM, ITEMS, Task, has_step, make_mixer, make_model

WINDOW = 4096
"""Events read at once by what carries a state on."""
WARM_UP = 64
"""Events of the pass that only brings in the code."""
NEGATIVES = 512
TOPK = 8


@dataclass(frozen=True)
class Passes:
    """What a process does again and again.

    Attributes
    ----------
    run : one pass over the first so many events of all histories, or targets of a loss.
    size : of a whole pass.
    small : of one that brings code and tables into memory, before memory is measured.
    prepare : called before each pass; neither timed nor measured.
    """

    run: Callable[[int], object]
    size: int
    small: int
    prepare: Callable[[], object] = lambda: None


def make_passes(task: Task) -> Passes:
    """Build what a task measures, with random weights and inputs."""
    kind, name = task["kind"], task["name"]
    if kind == "loss":
        return _loss(task)
    if kind == "bank" and name == "read":
        return _read_bank(task)
    if kind == "bank":
        model = task | {"kind": "model", "name": "elastic"}
        reader = _Reader(model, memory_slots=task["slots"], memory_topk=TOPK)
        return _train(reader) if name == "training" else _steps(reader)
    passes = {"forward": _forward, "forward+backward": _forward_and_backward, "step": _steps}
    return passes[task["pass"]](_Reader(task))


class _Reader:
    """A mixer or a model, and the histories that it reads: vectors (B, T, D), or items (B, T)."""

    def __init__(self, task: Task, **settings: Any) -> None:
        self.batch, self.length = task["batch"], task["length"]
        self.has_step = has_step(task["kind"], task["name"])
        shape = self.batch, self.length
        self.module: Mixer | SequenceModel
        self.call: Callable[[Tensor, Context], Tensor]
        if task["kind"] == "mixer":
            self.module = self.call = make_mixer(task["name"], self.length)
            self.data = torch.randn(*shape, DIM)
        else:
            self.module = make_model(task["name"], self.length, **settings)
            self.call = self.module.hidden
            self.data = torch.randint(1, ITEMS + 1, shape)
        reads_times, names = self.module.reads_times, self.module.reads_columns
        self.times = torch.randint(1, 3600, shape).cumsum(1) if reads_times else None
        # Numbers, but the types of events are one of two words.
        self.columns = {
            n: torch.randint(2, shape) if n == "type" else torch.rand(shape) for n in names
        }

    def context(self, at: int | slice) -> Context:
        """Times and columns of all histories at some events, as far as they are read."""
        times = None if self.times is None else self.times[:, at]
        columns = {name: column[:, at] for name, column in self.columns.items()}
        return Context(times=times, columns=columns or None)

    def inputs(self, start: int, end: int) -> tuple[Tensor, Context]:
        """The events from `start` to `end` of all histories, with what else is read of them."""
        ctx = self.context(slice(start, end))
        if start == 0 and end == self.length:
            return self.data, ctx  # and not a view of it, which a gradient would go through
        return self.data[:, start:end], ctx

    @torch.no_grad()
    def like_outputs(self) -> Tensor:
        """Random numbers in the shape of all outputs, whose width may not be that of inputs."""
        width = self.call(*self.inputs(0, 1)).shape[-1]
        return torch.randn(self.batch, self.length, width)

    @torch.no_grad()
    def state_after(self, length: int) -> Any:
        """The state after the first events, read in windows; the outputs are not kept."""
        module = cast(StreamingMixer | SequenceModel, self.module)
        state: Any = module.initial_state(self.batch)
        for start in range(0, length, WINDOW):
            x, ctx = self.inputs(start, min(start + WINDOW, length))
            state = module.prefill(x, state, ctx)[1]
        return state


def _forward(reader: _Reader) -> Passes:
    """Without gradients; in windows if there is a state to carry on."""
    reader.module.eval().requires_grad_(False)

    @torch.no_grad()
    def run(length: int) -> Any:
        if reader.has_step and length > WINDOW:
            return reader.state_after(length)
        return reader.call(*reader.inputs(0, length))

    return Passes(run, reader.length, min(WARM_UP, reader.length))


def _forward_and_backward(reader: _Reader) -> Passes:
    gradient = reader.like_outputs()
    if reader.data.is_floating_point():
        reader.data.requires_grad_()

    def run(length: int) -> None:
        reader.call(*reader.inputs(0, length)).backward(gradient[:, :length])

    def prepare() -> None:
        reader.module.zero_grad()
        reader.data.grad = None

    return Passes(run, reader.length, min(WARM_UP, reader.length), prepare)


def _steps(reader: _Reader) -> Passes:
    """Steps on and on from the state after the histories."""
    module = reader.module.eval().requires_grad_(False)
    state = reader.state_after(reader.length)
    x, ctx = reader.data[:, -1], reader.context(-1)

    @torch.no_grad()
    def run(n: int) -> None:
        nonlocal state
        _, state = cast(SequenceModel | StreamingMixer, module).step(x, state, ctx)

    return Passes(run, 1, 1)


def _read_bank(task: Task) -> Passes:
    bank = InterestMemory(DIM, task["slots"], TOPK).eval()
    questions = torch.randn(task["batch"], DIM)

    @torch.no_grad()
    def run(n: int) -> Tensor:
        return bank.vectors(bank(questions))

    return Passes(run, 1, 1)


def _train(reader: _Reader) -> Passes:
    """A whole training step of a model with a bank, but for the loss over the catalog."""
    model = cast(SequenceModel, reader.module.train())
    average = copy.deepcopy(model).requires_grad_(False)
    optimiser = Optimiser(model, average, TrainConfig())
    gradient = reader.like_outputs()
    number = 0

    def run(n: int) -> None:
        nonlocal number
        optimiser.zero_grad()
        reader.call(*reader.inputs(0, reader.length)).backward(gradient)
        optimiser.step(number)
        number += 1

    # Other histories for each step, which read other slots.
    return Passes(run, 1, 1, lambda: reader.data.random_(1, ITEMS + 1))


def _loss(task: Task) -> Passes:
    """A loss over a catalog, for user vectors and an item table that learn."""
    n_targets, catalog = task["batch"], task["catalog"]
    h = torch.randn(n_targets, DIM, requires_grad=True)
    items = (torch.randn(catalog + 1, DIM) * 0.02).requires_grad_()
    targets = torch.randint(1, catalog + 1, (n_targets,))
    negatives = torch.randint(1, catalog + 1, (NEGATIVES,))
    log_expected = torch.full((catalog + 1,), NEGATIVES / catalog).log()

    def run(n: int) -> None:
        if task["name"] == "full":
            loss = full_cross_entropy(h[:n, None], items, targets[:n])
        else:
            hit = (h[:n] * embedding(targets[:n], items)).sum(1)
            scores = h[:n] @ embedding(negatives, items).t()
            other = negatives != targets[:n, None]
            loss = sampled_softmax(hit, scores, other, log_expected[negatives])
        loss.backward()

    def prepare() -> None:
        h.grad = items.grad = None

    return Passes(run, n_targets, 1, prepare)
