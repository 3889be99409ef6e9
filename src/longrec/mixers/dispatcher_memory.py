"""The causal dispatcher with a memory bank: retrieved interests join the experts.

At every `every`-th event of a history (absolute counts, so that no way of cutting it changes
anything) what that event reads from the experts asks the memory bank
(longrec.mixers.product_keys) for k slots.
They join the R experts in the second softmax from that event until the next retrieval:

    y_t = softmax([<q_t, P_t.k'>, <q_t, M_t.k'>] / sqrt d) [P_t.v, M_t.v]
    M_t = W_m (what the bank returned for y'_c),   c = every * floor(t / every)

with y'_c the read from the experts alone, so that all retrievals of a history are independent of
each other and done at once. The bank is ELASTIC's (arXiv 2408.09380); its place here, and that it
serves a state, are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from longrec.mixers.base import EMPTY, Context, State, StreamingMixer, register_mixer
from longrec.mixers.dispatcher import (
    Attention,
    DispatcherMixer,
    DispatcherState,
    ExpertRead,
    Reader,
)
from longrec.mixers.product_keys import InterestMemory, MemoryRead


class MemoryState(NamedTuple):
    """What is kept of B histories.

    experts : the dispatcher's own state; slots : (B, k) int64 and weights : (B, k), the last
    retrieval, zeros before the first; count : (B,) int64 events so far.
    """

    experts: DispatcherState
    slots: Tensor
    weights: Tensor
    count: Tensor  # type: ignore[assignment]  # over tuple.count


@register_mixer("dispatcher-memory")
class MemoryDispatcherMixer(DispatcherMixer):
    """Causal dispatcher attention with a memory bank, O(T (R + k) D + T / every sqrt(M) D).

    Parameters
    ----------
    dim : int
        Width D.
    slots, topk : int
        Slots M of the bank (a square number), and k read at a time.
    guard : bool
        Whether the use of slots is balanced while training.
    every : int
        Events from one retrieval to the next.
    **dispatcher
        As in DispatcherMixer.
    """

    def __init__(
        self,
        dim: int,
        *,
        slots: int = 4096,
        topk: int = 8,
        guard: bool = True,
        every: int = 64,
        **dispatcher: Any,
    ) -> None:
        super().__init__(dim, **dispatcher)
        self.every = every
        self.memory = InterestMemory(dim, slots, topk, guard)
        self.recall = nn.Linear(dim, 2 * dim, bias=False)
        with torch.no_grad():
            self.recall.weight[dim:] = 0  # what is remembered at random says nothing yet

    def initial_state(self, batch: int) -> State:
        experts = cast(DispatcherState, super().initial_state(batch))
        found = experts.mean.new_zeros(batch, self.memory.topk)
        count = torch.zeros(batch, dtype=torch.int64, device=found.device)
        return MemoryState(experts, torch.zeros_like(found, dtype=torch.int64), found, count)

    def forward(self, x: Tensor, ctx: Context = EMPTY) -> Tensor:
        # Past the dispatcher's own way with packed histories: it gives no logits over experts.
        return StreamingMixer.forward(self, x, ctx)

    def mix(self, x: Tensor, ctx: Context) -> Tensor:
        past = cast(MemoryState, self.initial_state(x.shape[0]))
        read = self.read_experts(x, None, ctx, want_logits=True)
        return self._join_slots(x, read, past, ctx.lengths)[0]

    def prefill(self, x: Tensor, state: State, ctx: Context = EMPTY) -> tuple[Tensor, State]:
        past = cast(MemoryState, state)
        read = self.read_experts(x, past.experts, ctx, want_logits=True)
        y, slots, weights, count = self._join_slots(x, read, past, ctx.lengths)
        return y, MemoryState(cast(DispatcherState, read.state), slots, weights, count)

    def _join_slots(
        self, x: Tensor, read: ExpertRead, past: MemoryState, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Outputs (B, T, D) of what was read from experts and slots; slots, weights and count."""
        every = self.every
        events = x.shape[1]
        q, alone, scores = (
            part.transpose(0, 1)[:, :, :events]
            for part in (read.q, read.y, cast(Tensor, read.logits))
        )
        lengths = torch.full_like(past.count, events) if lengths is None else lengths
        # Block j of a row holds its events from its j-th retrieval here on; block 0 carries on. All
        # are of one size: a row begins in block 0 where its first retrieval will open block 1.
        size, blocks = min(every, events), -(-events // min(every, events)) + 1
        first = every - 1 - past.count % every  # the event at which it retrieves first
        place = torch.arange(events, device=x.device)
        after = (size - first).clamp_min(0)[:, None] + place  # (B, T), place within the blocks
        slots = past.slots[:, None].expand(-1, blocks, -1)
        weights = past.weights[:, None].expand(-1, blocks, -1)
        falls = ((past.count[:, None] + place + 1) % every == 0) & (place < lengths[:, None])
        row, at = falls.nonzero(as_tuple=True)
        found = self.memory(self._question(alone[row, :, at].flatten(1), x.dtype))
        where = row, after[row, at] // size
        slots = slots.index_put(where, found.indices)
        weights = weights.index_put(where, found.weights.to(weights.dtype))

        last = (after[:, 0] + lengths - 1).clamp_min(0) // size
        number = torch.arange(blocks, device=x.device)
        known = (past.count // every)[:, None] + number > 0
        used = (known & (number <= last[:, None])).nonzero(as_tuple=True)
        pairs = self._pairs(MemoryRead(slots[used], weights[used]), x.dtype)
        shape = (len(x), blocks, self.heads, *pairs.shape[-2:])
        pairs = pairs.new_zeros(shape).index_put(used, pairs).transpose(1, 2)

        # Queries in blocks, each beside its block's slots, and back.
        source = torch.arange(blocks * size, device=x.device) - after[:, :1]
        q = _pick(q, source.clamp(0, events - 1)).unflatten(2, (blocks, size))
        key, value = pairs.to(q.dtype).chunk(2, dim=-1)
        logits = q @ key.transpose(-1, -2) / q.shape[-1] ** 0.5
        mass = _pick(logits.logsumexp(-1).flatten(2)[..., None], after)[..., 0]
        recalled = _pick((logits.softmax(-1) @ value).flatten(2, 3), after)
        known = known.gather(1, after // size)[:, None]
        y = _join(alone, recalled, _share(scores, mass, known))
        row = torch.arange(len(x), device=x.device)
        out = self._out(y.transpose(0, 1), x)
        return out, slots[row, last], weights[row, last], past.count + lengths

    def step(self, x: Tensor, state: State, ctx: Context = EMPTY) -> tuple[Tensor, State]:
        read, recalled, share, new = self._read_once(x, cast(MemoryState, state), ctx)
        y = _join(read.y, recalled, share)
        return self.output(y.flatten(1).to(x.dtype)), new

    def _read_once(
        self, x: Tensor, past: MemoryState, ctx: Context
    ) -> tuple[ExpertRead, Tensor, Tensor, MemoryState]:
        """What one event x (B, D) reads from the experts, and from the slots (B, H, d); the share
        of the former (B, H); the state after it."""
        read = self.read_experts_once(x, past.experts, ctx)
        count, slots, weights = past.count + 1, past.slots, past.weights
        # Asked at every event though used at every 64th: no branch on data, so that a step can be
        # recorded (and costs the same each time).
        found = self.memory(self._question(read.y.flatten(1), x.dtype))
        due = (count % self.every == 0)[:, None]
        slots = torch.where(due, found.indices, slots)
        weights = torch.where(due, found.weights.to(weights.dtype), weights)
        pairs = self._pairs(MemoryRead(slots, weights), x.dtype).to(read.q.dtype)
        key, value = pairs.chunk(2, dim=-1)
        logits = (read.q[:, :, None] @ key.transpose(-1, -2))[:, :, 0] / read.q.shape[-1] ** 0.5
        recalled = (logits.softmax(-1)[:, :, None] @ value)[:, :, 0]
        share = _share(
            cast(Tensor, read.logits), logits.logsumexp(-1), (count >= self.every)[:, None]
        )
        new = MemoryState(cast(DispatcherState, read.state), slots, weights, count)
        return read, recalled, share, new

    def reader(self, x: Tensor, state: State, ctx: Context = EMPTY) -> Reader:
        past = cast(MemoryState, state)
        _, recalled, share, _ = self._read_once(x, past, ctx)
        alone = super().reader(x, past.experts, ctx)
        memory = 1 - share
        return Reader(
            alone.log_share + share.log()[..., None], memory, memory[..., None] * recalled
        )

    def attention(
        self, x: Tensor, state: State, reader: Reader, forgotten: Tensor, ctx: Context = EMPTY
    ) -> Attention:
        return super().attention(x, cast(MemoryState, state).experts, reader, forgotten, ctx)

    def _question(self, y: Tensor, kind: torch.dtype) -> Tensor:
        """What the bank is asked, of what was read from the experts (n, D): its direction."""
        direction: Tensor = normalize(y, dim=-1)
        return direction.mul(y.shape[-1] ** 0.5).to(kind)

    def _pairs(self, read: MemoryRead, kind: torch.dtype) -> Tensor:
        """[k', v] of slots and weights (n, k): (n, H, k, 2 d)."""
        found = self.memory.vectors(MemoryRead(read.indices, read.weights.to(kind)))
        key, value = (
            part.unflatten(-1, (self.heads, -1)) for part in self.recall(found).chunk(2, -1)
        )
        return torch.cat([key, value], dim=-1).transpose(1, 2)

    def define(self, x: Tensor, times: Tensor | None = None) -> tuple[Tensor, State | None]:
        reads, experts = self.define_reads(x, times)
        rows, empty = [], cast(MemoryState, self.initial_state(1))
        slots, weights = empty.slots, empty.weights
        for t, (q, key, value) in enumerate(reads):
            logits = torch.einsum("hd,hrd->hr", q, key) / q.shape[-1] ** 0.5
            alone = torch.einsum("hr,hrd->hd", logits.softmax(-1), value).flatten()
            if (t + 1) % self.every == 0:
                size = alone.norm().clamp_min(1e-12)
                slots, weights = self.memory.define((alone / size * len(alone) ** 0.5)[None])
            if t + 1 >= self.every:
                kept = self.memory.norm(self.memory.slots[slots[0]]) * weights[0][:, None]
                more = (kept @ w.t() for w in self.recall.weight.chunk(2))
                k_m, v_m = (part.unflatten(-1, (self.heads, -1)).transpose(0, 1) for part in more)
                key, value = torch.cat([key, k_m], 1), torch.cat([value, v_m], 1)
                logits = torch.einsum("hd,hrd->hr", q, key) / q.shape[-1] ** 0.5
                alone = torch.einsum("hr,hrd->hd", logits.softmax(-1), value).flatten()
            rows.append(alone)
        count = torch.tensor([len(x)])
        return torch.stack(rows) @ self.output.weight.t(), MemoryState(
            experts, slots, weights, count
        )

    @classmethod
    def examples(cls) -> dict[str, Callable[[int], DispatcherMixer]]:
        small = partial(cls, experts=3, slots=64, topk=4)
        return {
            "every 8": partial(small, every=8),
            "every 64, by time": partial(small, forgetting="time", chunk=7, guard=False),
        }


def _pick(x: Tensor, place: Tensor) -> Tensor:
    """x (B, H, T, n) at places (B, S) of its events: (B, H, S, n)."""
    index = place[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3])
    return x.gather(2, index)


def _share(logits: Tensor, mass: Tensor, known: Tensor) -> Tensor:
    """The experts' share (...) of one softmax over experts and slots.

    logits over experts (..., R); mass (...), the logsumexp over slots; known, False where nothing
    was retrieved yet.
    """
    return torch.where(known, (logits.logsumexp(-1) - mass).sigmoid(), 1.0)


def _join(y: Tensor, recalled: Tensor, share: Tensor) -> Tensor:
    """What was read from the experts and from the slots (..., d), by the former's share (...)."""
    share = share[..., None]
    return share * y + (1 - share) * recalled
