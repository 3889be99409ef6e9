"""A sequence model: item embedding, blocks around one mixer each, and scores of items.

A model of its own chooses mixers, blocks, whether items have one table or two, and a bias of each
item; it may override `embed`, `through_blocks`, `readout`, `user_vectors`, `item_vectors` and
`item_bias`, or `score_pairs` where h and an item are scored together (a target-aware model). One
that streams and puts vectors of its own among the events overrides `prefill_blocks` and
`step_blocks`, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from longrec.mixers import Context, Mixer, State, StreamingMixer
from longrec.mixers.base import EMPTY
from longrec.mixers.product_keys import InterestMemory
from longrec.models.common.base import Model
from longrec.models.common.blocks import Block, Dropout, FeedForwardBlock
from longrec.models.common.config import SequenceConfig
from longrec.models.common.gaps import NEVER, GapVectors

PAIRS_AT_ONCE, PAIRS_BLOCK = 1 << 16, 64
"""Pairs of a target-aware model that are scored at once, at most, and in whole blocks."""
_drawn: ContextVar[bool] = ContextVar("_drawn", default=True)


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


class ParameterGroup(NamedTuple):
    """Parameters that are updated alike.

    names : as in `named_parameters`; decay, rate : by which training's weight decay and learning
    rate are multiplied.
    """

    names: Sequence[str]
    decay: float = 1.0
    rate: float = 1.0


class SequenceModel(Model):
    """Item embedding, blocks around one mixer each, and scores by inner product.

    Parameters
    ----------
    config : SequenceConfig
        With targets="masked" there is a mask vector to learn.
    n_items : int
        Items in the catalog; tables of items have n_items + 1 rows.
    mixers : sequence of Mixer
        One per layer.
    block : callable
        (mixer, config) -> the layer around a mixer.
    tied : bool
        Whether the vectors that are read and those that are scored are one table.
    bias : bool
        Whether each item has a bias, added to its score.

    Attributes
    ----------
    width : numbers of h.
    sparse_items : whether the item tables' gradients are sparse; training decides it.
    held : the items whose rows the tables have, in rising order; None: all, but for a step of a
        training that spreads tables over processes.
    undecayed : names of its own parameters, as of any module's, that weight decay leaves alone,
        besides all vectors (biases, gains of norms).
    """

    searched = MappingProxyType({"dim": "x0.5,x1,x2,x4", "layers": "x0.5..x2", "dropout": "0..0.6"})
    sparse_items: bool = False
    held: Tensor | None = None
    undecayed = ("output_bias",)

    def __init__(
        self,
        config: SequenceConfig,
        n_items: int,
        mixers: Sequence[Mixer],
        block: Callable[[Mixer, Any], Block] = FeedForwardBlock,
        tied: bool = True,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.config, self.n_items, self.targets, dim = config, n_items, config.targets, config.dim
        self.items = _item_table(n_items, dim)
        if config.targets == "masked":
            self.mask = nn.Parameter(torch.randn(dim) * 0.02)
        self.scale = dim**0.5
        self.reads_times = self.reads_times or any(mixer.reads_times for mixer in mixers)
        self.gaps = GapVectors(dim) if config.gaps else None
        if config.gaps:
            others = self.without_times if self.reads_times else ""
            self.without_times = f"gaps=false {others}".strip()
        own = [*self.reads_columns, *(name for mixer in mixers for name in mixer.reads_columns)]
        self.reads_columns = tuple(dict.fromkeys(own))
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(block(mixer, config) for mixer in mixers)
        self.norm: nn.Module = nn.LayerNorm(dim)
        self.width = dim
        self.output_items = None if tied else _item_table(n_items, dim)
        self.output_bias = nn.Parameter(torch.zeros(n_items + 1, 1)) if bias else None
        if self.causal and not all(mixer.causal for mixer in mixers):
            raise TypeError(
                f"{type(self).__name__} has mixers that see later events, so causal must be False"
            )

    @property
    def mixers(self) -> list[Mixer]:
        """The mixer of each layer."""
        return [cast(Block, block).mixer for block in self.blocks]

    @property
    def linear(self) -> bool:
        return all(mixer.linear for mixer in self.mixers)

    @property
    def cost(self) -> str:
        return " + ".join(dict.fromkeys(mixer.cost for mixer in self.mixers if mixer.cost))

    @property
    def takes_times(self) -> bool:
        return self.reads_times or self.gaps is not None

    @property
    def target_aware(self) -> bool:
        """Whether h and a candidate are scored together, so that users have no vectors."""
        return scores_pairs(type(self))

    def embed(self, items: Tensor, ctx: Context, masked: Tensor | None = None) -> Tensor:
        """items (B, T) -> what the first block reads, (B, T, D).

        Where masked (B, T) is True the mask vector stands instead of the item's.
        """
        vectors = self.rows_of(self.items, items, padding=0)
        if self.gaps is not None:
            vectors = vectors + self.gaps(ctx.times, ctx.before)
        if masked is not None:
            vectors = torch.where(masked[..., None], self.mask, vectors)
        return vectors.mul(self.scale)

    def through_blocks(self, x: Tensor, ctx: Context, masked: Tensor | None = None) -> Tensor:
        """x (B, T, D) -> (B, T, D)."""
        for block in self.blocks:
            x = block(x, ctx)
        return x

    def prefill_blocks(
        self, x: Tensor, state: UserState, ctx: Context
    ) -> tuple[Tensor, tuple[State, ...]]:
        """`through_blocks` from a state: x (B, T, D) -> (B, T, D) and the layers' new states."""
        layers = []
        for block, layer in zip(self.blocks, state.layers, strict=True):
            x, new = cast(Block, block).prefill(x, layer, ctx)
            layers.append(new)
        return x, tuple(layers)

    def step_blocks(
        self, x: Tensor, state: UserState, ctx: Context
    ) -> tuple[Tensor, tuple[State, ...]]:
        """The same for one event of each user, x (B, D)."""
        layers = []
        for block, layer in zip(self.blocks, state.layers, strict=True):
            x, new = cast(Block, block).step(x, layer, ctx)
            layers.append(new)
        return x, tuple(layers)

    def readout(self, x: Tensor) -> Tensor:
        """What the last block gives, (..., D), -> h (..., W)."""
        return cast(Tensor, self.norm(x))

    def hidden(self, items: Tensor, ctx: Context = EMPTY, masked: Tensor | None = None) -> Tensor:
        """items (B, T) -> h (B, T, W), for each event or mask: what training reads."""
        x = self.dropout(self.embed(items, ctx, masked))
        return self.readout(self.through_blocks(x, ctx, masked))

    def encode(self, items: Tensor, ctx: Context = EMPTY) -> Tensor:
        """items (B, T) -> h (B, T, W), from which the next item is predicted.

        A model of masked events gets a mask after each row's last event, and what it makes of that
        mask is the row's last h; its other h are those of the events themselves.
        """
        if not items.shape[1]:
            return self._no_h(items)
        if self.targets != "masked":
            return self.hidden(items, ctx)
        events, rows = items.shape[1], torch.arange(len(items), device=items.device)
        lengths = ctx.lengths
        ends = torch.full_like(rows, events) if lengths is None else lengths
        last = (ends - 1).clamp_min(0)
        position = torch.arange(events + 1, device=items.device)
        masked = position == ends[:, None]

        def longer(x: Tensor) -> Tensor:
            """(B, T) -> (B, T + 1): the mask has no value of a further column."""
            nothing = 0 if x.is_floating_point() else -1
            return nn.functional.pad(x, (0, 1)).masked_fill(masked, nothing)

        times = ctx.times
        if times is not None:  # the mask has the time of the event before it
            before = times[rows, last][:, None]
            times = torch.where(masked, before, nn.functional.pad(times, (0, 1)))

        h = self.hidden(
            nn.functional.pad(items, (0, 1)),
            replace(
                ctx,
                lengths=None if lengths is None else lengths + 1,
                times=times,
                columns=ctx.columns and {name: longer(x) for name, x in ctx.columns.items()},
            ),
            masked,
        )
        is_last = position[:events] == last[:, None]
        return torch.where(is_last[..., None], h[rows, ends][:, None], h[:, :events])

    def item_tables(self) -> list[str]:
        """Names in `state_dict` of the tables with a row per item index, padding included."""
        tables = {"output_items": self.output_items, "output_bias": self.output_bias}
        return ["items", *(name for name, table in tables.items() if table is not None)]

    def sparse_tables(self) -> list[str]:
        """Names of the parameters whose gradients are sparse, as in `named_parameters`."""
        banks = [
            f"{name}.slots"
            for name, module in self.named_modules()
            if isinstance(module, InterestMemory) and module.sparse
        ]
        return self.item_tables() + banks if self.sparse_items else banks

    def parameter_groups(self) -> list[ParameterGroup]:
        """All parameters, each in one group; norms, biases, rates and gates are not decayed.

        A parameter of two axes or more is decayed unless its own module has it in `undecayed`.
        """
        decayed: list[str] = []
        kept: list[str] = []
        for prefix, module in self.named_modules():
            for name, parameter in module.named_parameters(recurse=False):
                exempt = parameter.ndim < 2 or name in getattr(module, "undecayed", ())
                (kept if exempt else decayed).append(f"{prefix}.{name}" if prefix else name)
        return [ParameterGroup(decayed), ParameterGroup(kept, decay=0.0)]

    def initial_state(self, batch: int) -> UserState:
        """State of `batch` users without events."""
        self._check_streams()
        count = torch.zeros(batch, dtype=torch.int64, device=self.items.device)
        return UserState(
            tuple(cast(StreamingMixer, mixer).initial_state(batch) for mixer in self.mixers),
            self.items.new_zeros(batch, self.width),
            torch.full_like(count, NEVER),
            count,
        )

    def prefill(
        self, items: Tensor, state: UserState, ctx: Context = EMPTY
    ) -> tuple[Tensor, UserState]:
        """Continue B users by items (B, T) -> h (B, T, W) and each row's new state."""
        self._check_streams()
        if not items.shape[1]:
            return self._no_h(items), state
        ctx = replace(ctx, before=state.time)
        x, layers = self.prefill_blocks(self.dropout(self.embed(items, ctx)), state, ctx)
        h = self.readout(x)
        lengths = ctx.lengths
        if lengths is None:
            lengths = torch.full_like(state.count, items.shape[1])
        last = (lengths - 1).clamp_min(0)
        rows = torch.arange(len(items), device=items.device)
        has_events = lengths > 0
        time = state.time
        if ctx.times is not None:
            latest = ctx.times.cummax(1).values[rows, last]
            time = torch.where(has_events, torch.maximum(latest, time), time)
        output = torch.where(has_events[:, None], h[rows, last], state.output)
        return h, UserState(layers, output, time, state.count + lengths)

    def step(
        self, items: Tensor, state: UserState, ctx: Context = EMPTY
    ) -> tuple[Tensor, UserState]:
        """Continue B users by one event each, items (B,) -> h (B, W) and the new state.

        What `ctx` has of the events is (B,) here.
        """
        self._check_streams()
        ctx = replace(ctx, before=state.time)
        x, layers = self.step_blocks(self.dropout(self.embed(items, ctx)), state, ctx)
        h = self.readout(x)
        time = state.time if ctx.times is None else torch.maximum(ctx.times, state.time)
        return h, UserState(layers, h, time, state.count + 1)

    def learn_words(self, words: Mapping[str, Sequence[str] | None]) -> None:
        """Told before training: of each further column that it reads the words, by their codes.

        None: the column holds numbers. A model that knows some words by name keeps their codes in a
        buffer, which is saved with its weights.
        """

    def wanted(self, columns: Mapping[str, Tensor]) -> Tensor | None:
        """Which targets are to be ranked high, (n,) bool; None: all, as in most models.

        `columns` has the further columns of the targets themselves, (n,) each. The loss that
        training sets is over the wanted ones; what the others are worth, `own_loss` says.
        """
        return None

    def own_loss(self, h: Tensor, targets: Tensor, columns: Mapping[str, Tensor]) -> Tensor | None:
        """What training minimises besides the loss over wanted targets, a mean; None: nothing.

        Parameters
        ----------
        h : Tensor
            (n, W), before the targets.
        targets : Tensor
            (n,) int64.
        columns : mapping
            Further columns of the targets, (n,) each.
        """
        return None

    def user_vectors(self, h: Tensor) -> Tensor:
        """h (n, W) -> (n, R, D), one vector per interest; a score is the best one's."""
        return h[:, None]

    def item_vectors(self, items: Tensor | None = None) -> Tensor:
        """Vectors of all items (n_items + 1, D), row 0 being padding, or of some (..., D)."""
        table = self.items if self.output_items is None else self.output_items
        return table if items is None else self.rows_of(table, items)

    def item_bias(self, items: Tensor | None = None) -> Tensor | None:
        """Biases of all items (n_items + 1,) or of some (...); None of a model without."""
        if self.output_bias is None:
            return None
        bias = self.output_bias if items is None else self.rows_of(self.output_bias, items)
        return bias[..., 0]

    def score_pairs(self, h: Tensor, items: Tensor) -> Tensor:
        """h (n, W) with candidates items (n, C) -> scores (n, C), of a target-aware model."""
        raise NotImplementedError

    def score(self, h: Tensor, items: Tensor | None = None) -> Tensor:
        if self.target_aware:
            return self._score_by_pairs(h, items)
        users, bias = self.user_vectors(h), self.item_bias(items)
        vectors = self.item_vectors(items)
        if vectors.ndim == 2:  # the same items for all
            scores = users.flatten(0, 1) @ vectors.t()
        else:
            scores = (users[:, :, None] * vectors[:, None]).sum(-1).flatten(0, 1)
        if users.shape[1] > 1:
            scores = scores.unflatten(0, users.shape[:2]).amax(1)
        if bias is not None:
            scores = scores + bias
        if items is None:
            scores[:, 0] = -torch.inf
        return scores

    def _score_by_pairs(self, h: Tensor, items: Tensor | None) -> Tensor:
        if items is not None:
            return self.score_pairs(h, items.expand(len(h), -1))
        # In calls of one shape, of full blocks, since how products are summed depends on it: scores
        # depend neither on who else is asked for nor on an item's place in the catalog.
        width = self.n_items + 1
        size = min(PAIRS_AT_ONCE, _rounded_up(width, PAIRS_BLOCK))
        every = torch.arange(_rounded_up(width, size), device=h.device)
        every[width:] = 0
        parts = every.split(size)
        rows = [
            torch.cat([self.score_pairs(user, p[None])[0] for p in parts]) for user in h.split(1)
        ]
        scores = torch.stack(rows)[:, 1:width] if rows else h.new_zeros(0, self.n_items)
        return nn.functional.pad(scores, (1, 0), value=-torch.inf)

    def rows_of(self, table: Tensor, items: Tensor, padding: int | None = None) -> Tensor:
        """Rows of some items (...) of a table of items, (..., D): the one way to read it.

        The row `padding` gets no gradient.
        """
        if self.held is not None:
            items = torch.searchsorted(self.held, items)
        return nn.functional.embedding(items, table, padding, sparse=self.sparse_items)

    def _no_h(self, items: Tensor) -> Tensor:
        """h of no events, (B, 0, W)."""
        return self.items.new_zeros(len(items), 0, self.width)

    def _check_streams(self) -> None:
        if self.streaming != "exact":
            why = "sees later events and keeps no state of fixed size"
            if self.causal:
                why = "keeps no state of fixed size"
            how = "the whole history"
            if self.max_length is not None:
                how = f"the last {self.max_length} events"
            mend = "" if self.streams_as is None else f". For a stream, train {self.streams_as}"
            raise ValueError(f"{self.name} {why}: it is served by reading {how} again{mend}")


def scores_pairs(cls: type[Model]) -> bool:
    """Whether models of a class are target-aware."""
    return issubclass(cls, SequenceModel) and cls.score_pairs is not SequenceModel.score_pairs


def _rounded_up(number: int, step: int) -> int:
    return -(-number // step) * step


@contextmanager
def tables_follow() -> Iterator[None]:
    """Tables of items are not drawn in this block: what is in them is loaded after it."""
    before = _drawn.set(False)
    try:
        yield
    finally:
        _drawn.reset(before)


def _item_table(n_items: int, dim: int) -> nn.Parameter:
    if not _drawn.get():
        return nn.Parameter(torch.zeros(n_items + 1, dim))
    table = torch.randn(n_items + 1, dim) * 0.02
    table[0] = 0
    return nn.Parameter(table)
