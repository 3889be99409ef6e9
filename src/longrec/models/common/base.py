"""What a model is: items in, user vectors out; and the registry.

A model gives for each event the vector h (B, T, D) from which the next item is predicted,
`user_vectors` (n, R, D) and `score` over items. Losses, evaluation and retrieval use only these.
Item index 0 is padding and never scored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from longrec.mixers import Context, Mixer, State, StreamingMixer
from longrec.mixers.base import EMPTY
from longrec.mixers.product_keys import InterestMemory
from longrec.models.common.blocks import Block, Dropout
from longrec.models.common.config import SequenceConfig

Streaming = Literal["exact", "windowed", "none"]


class UserState(NamedTuple):
    """What a model keeps of B users.

    layers : one mixer state per layer; output : (B, D), h after the last event;
    time : (B,) int64, time of the last event, the smallest int64 before the first one;
    count : (B,) int64, events so far.
    """

    layers: tuple[State, ...]
    output: Tensor
    time: Tensor
    count: Tensor  # type: ignore[assignment]  # over tuple.count


class Model(nn.Module):
    """The common face of every model, trained by gradient or by counting.

    Attributes
    ----------
    name : what it is registered as.
    streaming : "exact" when a state of fixed size gives what the whole history gives, "windowed"
        when only the last `max_length` events are seen, "none" otherwise.
    streams_as : the model to train instead where a stream is wanted, if this one has no state.
    max_length : most events that the model can read, or None for no limit.
    reads_times : whether the events' times must be given.
    """

    name: ClassVar[str]
    streaming: ClassVar[Streaming]
    streams_as: ClassVar[str | None] = None
    config_class: ClassVar[type[Any]]
    config: Any
    max_length: int | None = None
    n_items: int
    reads_times: bool = False

    @property
    def causal(self) -> bool:
        """Whether h after an event depends on no later event."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Where the weights (or counts) are."""
        return cast(torch.device, next(iter(self.state_dict().values())).device)

    def reads(self, context: int | None) -> int | None:
        """Most events read of a history where `context` limits it too; None for all."""
        limits = [n for n in (context, self.max_length) if n is not None]
        return min(limits, default=None)

    def encode(self, items: Tensor, ctx: Context = EMPTY) -> Tensor:
        """items (B, T) -> h (B, T, D): what is known after each event."""
        raise NotImplementedError

    def score(self, h: Tensor) -> Tensor:
        """h (n, D) -> scores (n, n_items + 1); column 0 (padding) is -inf."""
        raise NotImplementedError


class SequenceModel(Model):
    """Item embedding, blocks around one mixer each, and scores by inner product.

    Parameters
    ----------
    config : SequenceConfig
        With targets="masked" there is a mask vector to learn.
    n_items : int
        Items in the catalog; the embedding has n_items + 1 rows.
    mixers : sequence of Mixer
        One per layer.

    Attributes
    ----------
    sparse_items : whether the item table's gradient is sparse; training decides it.
    """

    sparse_items: bool = False

    def __init__(self, config: SequenceConfig, n_items: int, mixers: Sequence[Mixer]) -> None:
        super().__init__()
        self.config, self.n_items, self.targets, dim = config, n_items, config.targets, config.dim
        self.items = nn.Parameter(torch.randn(n_items + 1, dim) * 0.02)
        with torch.no_grad():
            self.items[0] = 0
        if config.targets == "masked":
            self.mask = nn.Parameter(torch.randn(dim) * 0.02)
        self.scale = dim**0.5
        self.reads_times = any(mixer.reads_times for mixer in mixers)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(mixer, dim, config.ffn_dim, config.dropout) for mixer in mixers
        )
        self.norm = nn.LayerNorm(dim)

    @property
    def causal(self) -> bool:
        return all(cast(Block, block).mixer.causal for block in self.blocks)

    def embed(self, items: Tensor, ctx: Context, masked: Tensor | None = None) -> Tensor:
        """items (B, T) -> what the first block reads, (B, T, D).

        Where masked (B, T) is True the mask vector stands instead of the item's.
        """
        vectors: Tensor = nn.functional.embedding(
            items, self.items, padding_idx=0, sparse=self.sparse_items
        )
        if masked is not None:
            vectors = torch.where(masked[..., None], self.mask, vectors)
        return vectors.mul(self.scale)

    def through_blocks(self, x: Tensor, ctx: Context, masked: Tensor | None = None) -> Tensor:
        """x (B, T, D) -> (B, T, D)."""
        for block in self.blocks:
            x = block(x, ctx)
        return x

    def hidden(self, items: Tensor, ctx: Context = EMPTY, masked: Tensor | None = None) -> Tensor:
        """items (B, T) -> (B, T, D), one vector per event or mask: what training reads."""
        x = self.dropout(self.embed(items, ctx, masked))
        return cast(Tensor, self.norm(self.through_blocks(x, ctx, masked)))

    def encode(self, items: Tensor, ctx: Context = EMPTY) -> Tensor:
        """items (B, T) -> h (B, T, D), from which the next item is predicted.

        A model of masked events gets a mask after each row's last event, and what it makes of that
        mask is the row's last h; its other h are those of the events themselves.
        """
        if self.targets != "masked":
            return self.hidden(items, ctx)
        events, rows = items.shape[1], torch.arange(len(items), device=items.device)
        lengths = ctx.lengths
        ends = torch.full_like(rows, events) if lengths is None else lengths
        last = (ends - 1).clamp_min(0)
        position = torch.arange(events + 1, device=items.device)
        masked = position == ends[:, None]

        def longer(x: Tensor | None) -> Tensor | None:
            """(B, T) -> (B, T + 1): the mask has the time and the type of the event before it."""
            if x is None:
                return None
            return torch.where(masked, x[rows, last][:, None], nn.functional.pad(x, (0, 1)))

        h = self.hidden(
            nn.functional.pad(items, (0, 1)),
            replace(
                ctx,
                lengths=None if lengths is None else lengths + 1,
                times=longer(ctx.times),
                types=longer(ctx.types),
            ),
            masked,
        )
        is_last = position[:events] == last[:, None]
        return torch.where(is_last[..., None], h[rows, ends][:, None], h[:, :events])

    def sparse_tables(self) -> list[str]:
        """Names of the parameters whose gradients are sparse, as in `named_parameters`."""
        banks = [
            f"{name}.slots"
            for name, module in self.named_modules()
            if isinstance(module, InterestMemory) and module.sparse
        ]
        return ["items", *banks] if self.sparse_items else banks

    def item_tables(self) -> list[str]:
        """Names in `state_dict` of the tables with a row per item index, padding included."""
        return ["items"]

    def initial_state(self, batch: int) -> UserState:
        """State of `batch` users without events."""
        count = torch.zeros(batch, dtype=torch.int64, device=self.items.device)
        return UserState(
            tuple(mixer.initial_state(batch) for _, mixer in self._streaming_blocks()),
            self.items.new_zeros(batch, self.items.shape[1]),
            torch.full_like(count, torch.iinfo(torch.int64).min),
            count,
        )

    def prefill(
        self, items: Tensor, state: UserState, ctx: Context = EMPTY
    ) -> tuple[Tensor, UserState]:
        """Continue B users by items (B, T) -> h (B, T, D) and each row's new state."""
        streaming = self._streaming_blocks()
        x, layers = self.dropout(self.embed(items, ctx)), []
        for (block, mixer), layer in zip(streaming, state.layers, strict=True):
            mixed, new = mixer.prefill(block.before(x), layer, ctx)
            x = block.after(x, mixed)
            layers.append(new)
        h = self.norm(x)
        lengths = ctx.lengths
        if lengths is None:
            lengths = torch.full_like(state.count, items.shape[1])
        last = (lengths - 1).clamp_min(0)
        rows = torch.arange(len(items), device=items.device)
        has_events = lengths > 0
        time = state.time
        if ctx.times is not None:
            time = torch.where(has_events, torch.maximum(ctx.times[rows, last], time), time)
        output = torch.where(has_events[:, None], h[rows, last], state.output)
        return h, UserState(tuple(layers), output, time, state.count + lengths)

    def step(
        self, items: Tensor, state: UserState, times: Tensor | None = None
    ) -> tuple[Tensor, UserState]:
        """Continue B users by one event each, items (B,) at times (B,) -> h (B, D), new state."""
        streaming, ctx = self._streaming_blocks(), Context(times=times)
        x, layers = self.dropout(self.embed(items, ctx)), []
        for (block, mixer), layer in zip(streaming, state.layers, strict=True):
            mixed, new = mixer.step(block.before(x), layer, ctx)
            x = block.after(x, mixed)
            layers.append(new)
        h = self.norm(x)
        time = state.time if times is None else torch.maximum(times, state.time)
        return h, UserState(tuple(layers), h, time, state.count + 1)

    def user_vectors(self, h: Tensor) -> Tensor:
        """h (n, D) -> (n, R, D); one vector per user here."""
        return h[:, None]

    def item_vectors(self) -> Tensor:
        """(n_items + 1, D), row 0 is padding."""
        return self.items

    def score(self, h: Tensor) -> Tensor:
        scores = h @ self.item_vectors().t()
        scores[:, 0] = -torch.inf
        return scores

    def _streaming_blocks(self) -> list[tuple[Block, StreamingMixer]]:
        if self.streaming != "exact":
            why = "sees later events and keeps no state of fixed size"
            if self.causal:
                why = "keeps no state of fixed size"
            how = "the whole history"
            if self.max_length is not None:
                how = f"the last {self.max_length} events"
            mend = "" if self.streams_as is None else f". For a stream, train {self.streams_as}"
            raise ValueError(f"{self.name} {why}: it is served by reading {how} again{mend}")
        blocks = [cast(Block, block) for block in self.blocks]
        return [(block, cast(StreamingMixer, block.mixer)) for block in blocks]


class CountingModel(Model):
    """A model fitted in one pass of counting, without gradients."""

    @property
    def causal(self) -> bool:
        return True

    def count(self, items: Tensor, following: Tensor) -> None:
        """Fit to pairs (items[i], following[i]) of neighbouring events; 0 marks a first event."""
        raise NotImplementedError


MODELS: dict[str, type[Model]] = {}
M = TypeVar("M", bound=type[Model])


def register_model(name: str) -> Callable[[M], M]:
    """Class decorator: put a model under `name` in MODELS, where every tool finds it."""

    def register(cls: M) -> M:
        if name in MODELS:
            raise ValueError(f"a model named {name!r} is registered already")
        if not is_dataclass(cls.config_class):
            raise TypeError(f"{cls.__name__}.config_class must be a frozen dataclass")
        cls.name = name
        MODELS[name] = cls
        return cls

    return register


def config_keys(name: str) -> dict[str, Any]:
    """Keys of a model's config with their defaults."""
    return {f.name: f.default for f in fields(MODELS[name].config_class)}


def build_model(name: str, config: Any, n_items: int) -> Model:
    """Make a model of the registry: its class takes (config, n_items)."""
    return cast(Callable[[Any, int], Model], MODELS[name])(config, n_items)
