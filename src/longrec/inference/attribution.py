"""What the last event of a history attends to, in models of causal dispatcher attention.

The dispatcher (longrec.mixers.dispatcher) is linear in the values, so that the last event T gives
every past event u of its history a weight A_u per layer and head, with the memory bank's share in
the rest of one:

    y_T = sum_u A_u v_u + recalled,    sum_u A_u + memory = 1

What event u adds to an item's score directly is the part of that sum along the item's vector e:

    A_u <e', W_o v_u>,    e' = (g e - mean(g e)) / sigma

W_o being the layer's output projection, g the final norm's gain and sigma the standard deviation by
which it divides: the norm is linear once sigma is known. These parts, the bank's and a rest (the
last event's own vector, the feed-forward networks, the norm's bias) sum to the score, less what
every user's items get alike and what an added score adds.

Where a user has several vectors, linear in what the norm gives, e is what the item's vector is to
that: M_r e, with M_r the map to the vector r that won. A model of which any of this is not so is
refused by name.

A state does not tell its events apart, so the history is read: twice, in windows, O(T).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from longrec.core.errors import UsageError
from longrec.mixers import Context, State
from longrec.mixers.base import map_state
from longrec.mixers.dispatcher import DispatcherMixer, Reader
from longrec.mixers.dispatcher_memory import MemoryDispatcherMixer
from longrec.models.common.base import Model
from longrec.models.common.blocks import Block, FeedForwardBlock, ResidualBlock
from longrec.models.common.scorer import Scorer
from longrec.models.common.sequence import SequenceModel

WINDOW = 512
"""Events read at once; the state carries on. Four times as many would be read a fifth faster, and
others would wait as long for a server that explains."""

KNOWN_BLOCKS = (ResidualBlock, FeedForwardBlock)
KNOWN_MIXERS = (DispatcherMixer, MemoryDispatcherMixer)
OF_MODEL = (
    *("encode", "hidden", "through_blocks", "prefill_blocks", "step_blocks"),
    *("prefill", "step", "readout"),
)
"""Methods of a sequence model that the mathematics is about; `embed` may be the model's own."""
OF_BLOCK = ("after", "forward", "prefill", "step")
NONLINEAR = 1e-3
"""Part of the user vectors that may be rounding."""

Layers = list[tuple[Block, DispatcherMixer]]


class LastAttention(NamedTuple):
    """What the last of T events attends to, and what that adds to an item's score, in float32.

    score : the item's, as it is served; bias : what of it every user's item gets; added : what an
    added score adds.
    events, contribution : (layers, heads, T), A and A <e', W_o v>;
    memory, memory_contribution : (layers, heads), the memory bank's share, and what it adds.
    """

    score: float
    bias: float
    added: float
    events: np.ndarray
    memory: np.ndarray
    contribution: np.ndarray
    memory_contribution: np.ndarray


def attended_layers(model: Model) -> tuple[SequenceModel, Layers]:
    """The model with its blocks and their mixers.

    Raises
    ------
    UsageError
        When it is not made of residual blocks of causal dispatcher attention, a final norm and user
        vectors that are linear in what the norm gives.
    """
    if isinstance(model, SequenceModel):
        layers = [(block, block.mixer) for block in cast(list[Block], model.blocks)]
        dispatchers = [pair for pair in layers if isinstance(pair[1], DispatcherMixer)]
        if len(dispatchers) == len(layers):
            other = _what_differs(model, dispatchers)
            if other is None:
                return model, cast(Layers, dispatchers)
            raise UsageError(
                f"explanations are not available for {model.name}: {other}, and what each event "
                "adds to a score is not known of that; available for: elastic"
            )
    raise UsageError(
        f"explanations are not available for {model.name}: it has no causal dispatcher attention, "
        "whose weights by past event are known; available for: elastic"
    )


def _what_differs(model: SequenceModel, layers: Sequence[tuple[Block, Any]]) -> str | None:
    """In what a model of dispatcher attention is not what the mathematics is about."""
    own = _own_methods(type(model), SequenceModel, OF_MODEL)
    if own:
        return f"it has {own} of its own"
    for number, (block, mixer) in enumerate(layers):
        parent = next((cls for cls in KNOWN_BLOCKS[::-1] if isinstance(block, cls)), None)
        if parent is None:
            return f"layer {number} is a {type(block).__name__}, which is no residual block"
        own = _own_methods(type(block), parent, OF_BLOCK)
        if own:
            return f"layer {number}, a {type(block).__name__}, has {own} of its own"
        if type(mixer) not in KNOWN_MIXERS:
            return f"the mixer of layer {number} is a {type(mixer).__name__}, a kind of its own"
    if type(model.norm) is not nn.LayerNorm or not model.norm.elementwise_affine:
        return f"its final norm is a {type(model.norm).__name__} and no LayerNorm with a gain"
    if model.target_aware:
        return "it scores a user and an item together"
    if not _is_linear(model):
        return "its user vectors are not linear in what the final norm gives"
    return None


def _own_methods(cls: type, parent: type, names: Sequence[str]) -> str:
    """Names of methods that a class does not have from its parent, as text."""
    return ", ".join(name for name in names if getattr(cls, name) is not getattr(parent, name))


@torch.no_grad()
def _is_linear(model: SequenceModel) -> bool:
    """Whether user vectors are linear in h, but for a constant: U(a + b) + U(0) = U(a) + U(b)."""
    if type(model).user_vectors is SequenceModel.user_vectors:
        return True
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 3, model.width, generator=generator).to(model.items)
    of_sum, of_none, of_a, of_b = model.user_vectors(torch.cat([a + b, 0 * a, a, b])).chunk(4)
    off = (of_sum + of_none - of_a - of_b).abs().max()
    return bool(off <= NONLINEAR * of_sum.abs().max())


@torch.inference_mode()
def attention_of_last(
    scorer: Scorer,
    items: Tensor,
    times: Tensor | None,
    item: int,
    progress: Callable[[int, int], None] | None = None,
    window: int = WINDOW,
    columns: Mapping[str, Tensor] | None = None,
    recent: Tensor | None = None,
) -> LastAttention:
    """What the last event of a history attends to.

    Parameters
    ----------
    scorer : Scorer
        Of a model in eval mode.
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
    recent : Tensor or None
        (1, reach) int64, the last known items, which an added score reads.

    Raises
    ------
    UsageError
        When the model is none whose mathematics is known; see `attended_layers`.
    """
    passes = _TwoPasses(scorer, items, times, window, progress, columns or {})
    return passes.attention_to(item, recent)


class _TwoPasses:
    """Two passes over a history: forward to the last event, and back from it."""

    def __init__(
        self,
        scorer: Scorer,
        items: Tensor,
        times: Tensor | None,
        window: int,
        progress: Callable[[int, int], None] | None,
        columns: Mapping[str, Tensor],
    ) -> None:
        self.scorer = scorer
        self.model, self.layers = attended_layers(scorer.model)
        device = self.model.device
        self.columns = {name: column.to(device) for name, column in columns.items()}
        self.items = items.to(device)
        self.times = None if times is None else times.to(device)
        self.window, self.progress = window, progress
        self.starts = range(0, len(items), window)

    def attention_to(self, item: int, recent: Tensor | None) -> LastAttention:
        """Both passes, for one item."""
        states, last_state = self._forward()
        readers, x = self._read_last(last_state)
        chosen = torch.tensor([item], device=x.device)
        h = self.model.readout(x)
        score = float(self.scorer.score(h, chosen, recent)[0, 0])
        of_model, own_bias = self.model.score(h, chosen), self.model.item_bias(chosen)
        aims = self._aims(x[0], h, chosen)
        events, contribution = self._backward(states, readers, aims)
        memory = torch.cat([reader.memory for reader in readers])
        recalled = torch.cat([reader.recalled for reader in readers])
        by_memory = (recalled * torch.stack(aims)).sum(-1)
        return LastAttention(
            score,
            0.0 if own_bias is None else float(own_bias[0]),
            score - float(of_model[0, 0]),
            *(events, memory.float().cpu().numpy()),
            *(contribution, by_memory.float().cpu().numpy()),
        )

    def _events(self, start: int, end: int) -> tuple[Tensor, Context]:
        """Events start .. end - 1 as a batch of one history (1, n)."""
        times = None if self.times is None else self.times[None, start:end]
        columns = {name: column[None, start:end] for name, column in self.columns.items()}
        ctx = Context(times=times, columns=columns or None, before=self._before(start))
        return self.items[None, start:end], ctx

    def _before(self, start: int) -> Tensor | None:
        """The time of the event before one, (1,); None where there is none."""
        return None if self.times is None or not start else self.times[start - 1 : start]

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
            before=self._before(len(self.items) - 1),
        )
        x, readers = self.model.embed(self.items[-1:], ctx), []
        for (block, mixer), state in zip(self.layers, states, strict=True):
            z = block.before(x)
            readers.append(mixer.reader(z, state, ctx))
            x = block.after(x, mixer.step(z, state, ctx)[0])
        return readers, x

    def _aims(self, x: Tensor, h: Tensor, item: Tensor) -> list[Tensor]:
        """Per layer W_o^T e' (H, d), x (D,) being what the final norm gets and h (1, W) gives."""
        norm = cast(nn.LayerNorm, self.model.norm)
        along = norm.weight * self._item_in_h(h, item)
        along = (along - along.mean()) / (x.var(correction=0) + norm.eps).sqrt()
        return [
            (along @ mixer.output.weight).unflatten(0, (mixer.heads, -1))
            for _, mixer in self.layers
        ]

    def _item_in_h(self, h: Tensor, item: Tensor) -> Tensor:
        """What the item's vector is to h (1, W), (W,): M_r e of the user's vector r that won."""
        model = self.model
        vector = model.item_vectors(item)[0]
        if type(model).user_vectors is SequenceModel.user_vectors:
            return vector
        won = int((model.user_vectors(h)[0] @ vector).argmax())
        every = torch.cat([torch.zeros_like(h), torch.eye(model.width).to(h)])
        mapped = model.user_vectors(every)[:, won]
        along: Tensor = (mapped[1:] - mapped[0]) @ vector
        return along

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
                along = torch.einsum("bhtd,hd->bht", found.value, aims[n].to(found.value))
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
