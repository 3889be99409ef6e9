"""What the last event of a history attends to, in models of causal dispatcher attention.

The dispatcher (longrec.mixers.dispatcher) is linear in the values, so that the last event T gives
every past event u of its history a weight A_u per layer and head, with the memory bank's share in
the rest of one:

    y_T = sum_u A_u v_u + recalled,    sum_u A_u + memory = 1

What event u adds to an item's score directly is the part of that sum along the item's vector e:

    A_u <e', W_o v_u>,    e' = (g e - mean(g e)) / sigma

W_o being the layer's output projection, g the final norm's gain and sigma the standard deviation by
which it divides: the norm is linear once sigma is known. These parts, the bank's and a rest (the
last event's own vector, the feed-forward networks, the norm's bias) sum to the score.

A state does not tell its events apart, so the history is read: twice, in windows, O(T).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from longrec.core.errors import UsageError
from longrec.mixers import Context, State
from longrec.mixers.base import map_state
from longrec.mixers.dispatcher import DispatcherMixer, Reader
from longrec.models.common.base import Model
from longrec.models.common.blocks import Block
from longrec.models.common.sequence import SequenceModel

WINDOW = 4096
"""Events read at once; the state carries on."""

Layers = list[tuple[Block, DispatcherMixer]]


class LastAttention(NamedTuple):
    """What the last of T events attends to, and what that adds to an item's score, in float32.

    score : the item's.
    events, contribution : (layers, heads, T), A and A <e', W_o v>;
    memory, memory_contribution : (layers, heads), the memory bank's share, and what it adds.
    """

    score: float
    events: np.ndarray
    memory: np.ndarray
    contribution: np.ndarray
    memory_contribution: np.ndarray


def attended_layers(model: Model) -> tuple[SequenceModel, Layers]:
    """The model with its blocks and their mixers.

    Raises
    ------
    UsageError
        When not all of its layers are causal dispatcher attention.
    """
    if isinstance(model, SequenceModel):
        blocks = [block for block in model.blocks if isinstance(block, Block)]
        layers = [(b, b.mixer) for b in blocks if isinstance(b.mixer, DispatcherMixer)]
        if len(layers) == len(blocks):
            return model, layers
    raise UsageError(
        f"explanations are not available for {model.name}: it has no causal dispatcher attention, "
        "whose weights by past event are known; available for: elastic"
    )


@torch.inference_mode()
def attention_of_last(
    model: Model,
    items: Tensor,
    times: Tensor | None,
    item: int,
    progress: Callable[[int, int], None] | None = None,
    window: int = WINDOW,
    columns: Mapping[str, Tensor] | None = None,
) -> LastAttention:
    """What the last event of a history attends to.

    Parameters
    ----------
    model : Model
        In eval mode.
    items : Tensor
        (T,) item indices, T at least 1, oldest first.
    times : Tensor or None
        (T,) int64 seconds.
    item : int
        Index of the item whose score is looked at.
    progress : callable or None
        Called with (events read, events to read), each event being read twice.
    window : int
        Events read at once; it changes nothing but memory.
    columns : mapping or None
        Further columns of the events that the model reads, (T,) each.

    Raises
    ------
    UsageError
        When not all of the model's layers are causal dispatcher attention.
    """
    return _TwoPasses(model, items, times, window, progress, columns or {}).attention_to(item)


class _TwoPasses:
    """Two passes over a history: forward to the last event, and back from it."""

    def __init__(
        self,
        model: Model,
        items: Tensor,
        times: Tensor | None,
        window: int,
        progress: Callable[[int, int], None] | None,
        columns: Mapping[str, Tensor],
    ) -> None:
        self.model, self.layers = attended_layers(model)
        self.columns = {name: column.to(model.device) for name, column in columns.items()}
        self.items = items.to(model.device)
        self.times = None if times is None else times.to(model.device)
        self.window, self.progress = window, progress
        self.starts = range(0, len(items), window)

    def attention_to(self, item: int) -> LastAttention:
        """Both passes, for one item."""
        states, last_state = self._forward()
        readers, x = self._read_last(last_state)
        score = float(self.model.score(self.model.readout(x))[0, item])
        aims = self._aims(x[0], item)
        events, contribution = self._backward(states, readers, aims)
        memory = torch.cat([reader.memory for reader in readers])
        recalled = torch.cat([reader.recalled for reader in readers])
        added = (recalled * torch.stack(aims)).sum(-1)
        return LastAttention(
            score, events, memory.float().cpu().numpy(), contribution, added.float().cpu().numpy()
        )

    def _events(self, start: int, end: int) -> tuple[Tensor, Context]:
        """Events start .. end - 1 as a batch of one history (1, n)."""
        times = None if self.times is None else self.times[None, start:end]
        columns = {name: column[None, start:end] for name, column in self.columns.items()}
        return self.items[None, start:end], Context(times=times, columns=columns or None)

    def _report(self, read: int) -> None:
        if self.progress is not None:
            self.progress(read, 2 * len(self.items))

    def _forward(self) -> tuple[State, State]:
        """The layers' states at the start of every window, and before the last event.

        The former are a state whose parts have an axis of windows in front, of memory that is taken
        at once: small tensors that stay between the large ones of a window leave holes.
        """
        state = self.model.initial_state(1)
        windows = len(self.starts)
        states = map_state(lambda part: part.new_empty((windows, *part.shape)), state.layers)
        for number, start in enumerate(self.starts):
            _write_state(states, number, state.layers)
            end = min(start + self.window, len(self.items))
            before_last = min(end, len(self.items) - 1)
            if before_last > start:
                items, ctx = self._events(start, before_last)
                _, state = self.model.prefill(items, state, ctx)
            self._report(end)
        return states, state.layers

    def _read_last(self, states: State) -> tuple[list[Reader], Tensor]:
        """How the last event reads in each layer, and what the final norm gets, (1, D)."""
        ctx = Context(
            times=None if self.times is None else self.times[-1:],
            columns={name: column[-1:] for name, column in self.columns.items()} or None,
        )
        x, readers = self.model.embed(self.items[-1:], ctx), []
        for (block, mixer), state in zip(self.layers, states, strict=True):
            z = block.before(x)
            readers.append(mixer.reader(z, state, ctx))
            x = block.after(x, mixer.step(z, state, ctx)[0])
        return readers, x

    def _aims(self, x: Tensor, item: int) -> list[Tensor]:
        """Per layer W_o^T e' (H, d), x (D,) being what the final norm gets."""
        norm = cast(nn.LayerNorm, self.model.norm)
        along = norm.weight * self.model.item_vectors()[item]
        along = (along - along.mean()) / (x.var(correction=0) + norm.eps).sqrt()
        return [
            (along @ mixer.output.weight).unflatten(0, (mixer.heads, -1))
            for _, mixer in self.layers
        ]

    def _backward(
        self, states: State, readers: list[Reader], aims: list[Tensor]
    ) -> tuple[np.ndarray, np.ndarray]:
        """A and A <e', W_o v>, (layers, heads, T) both.

        From the end, so that what was forgotten of an event is known when the event is met.
        """
        shape = (len(self.layers), self.layers[0][1].heads, len(self.items))
        events, contribution = np.empty(shape, np.float32), np.empty(shape, np.float32)
        forgotten = [torch.zeros_like(reader.log_share) for reader in readers]
        for number, start in reversed(list(enumerate(self.starts))):
            past = map_state(itemgetter(number), states)
            end = min(start + self.window, len(self.items))
            items, ctx = self._events(start, end)
            x = self.model.embed(items, ctx)
            for n, (block, mixer) in enumerate(self.layers):
                z = block.before(x)
                found = mixer.attention(z, past[n], readers[n], forgotten[n], ctx)
                forgotten[n] = found.forgotten
                along = torch.einsum("bhtd,hd->bht", found.value, aims[n])
                events[n, :, start:end] = found.mass[0].cpu()
                contribution[n, :, start:end] = (found.mass * along)[0].cpu()
                x = block.after(x, mixer.prefill(z, past[n], ctx)[0])
            self._report(2 * len(self.items) - start)
        return events, contribution


def _write_state(states: State, number: int, state: State) -> None:
    """Write a state at one place of the states that have an axis in front."""
    for target, part in zip(states, state, strict=True):
        if isinstance(part, Tensor):
            target[number] = part
        else:
            _write_state(target, number, part)
