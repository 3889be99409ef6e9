"""The causal dispatcher with a memory bank: retrieved interests join the experts.

At every `every`-th event of a history (absolute counts, so that no way of cutting it changes
anything) what that event reads from the experts asks the memory bank
(longrec.mixers.product_keys) for k slots. They join the R experts in the second softmax from that
event until the next retrieval:

    y_t = softmax([<q_t, P_t.k'>, <q_t, M_t.k'>] / sqrt d) [P_t.v, M_t.v]
    M_t = W_m (what the bank returned for y'_c),   c = every * floor(t / every)

with y'_c the read from the experts alone, so that all retrievals of a history are independent of
each other and done at once. The bank is ELASTIC's (arXiv 2408.09380); its place here, and that it
serves a state, are ours.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from longrec.mixers.base import EMPTY, Context, State, register_mixer
from longrec.mixers.dispatcher import (
    Attention,
    DispatcherMixer,
    DispatcherState,
    ExpertRead,
    Reader,
)
from longrec.mixers.product_keys import InterestMemory, MemoryRead
from longrec.ops.dispatcher import read_pairs
from longrec.ops.sums import sum_type


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
    """The same with a memory bank, of which k of M slots are read every n events.

    Parameters
    ----------
    dim : int
        Width D.
    slots, topk : int
        Slots M of the bank (a square number), and k read at a time.
    balance : bool
        Whether the use of slots is balanced while training.
    every : int
        Events from one retrieval to the next.
    **dispatcher
        As in DispatcherMixer.
    """

    cost = "O(T (R + k) D + T / n sqrt(M) D)"

    def __init__(
        self,
        dim: int,
        *,
        slots: int = 4096,
        topk: int = 8,
        balance: bool = True,
        every: int = 64,
        **dispatcher: Any,
    ) -> None:
        super().__init__(dim, **dispatcher)
        self.every = every
        self.memory = InterestMemory(dim, slots, topk, balance)
        self.recall = nn.Linear(dim, 2 * dim, bias=False)
        with torch.no_grad():
            self.recall.weight[dim:] = 0  # slots are random at first, and shall add nothing yet

    def initial_state(self, batch: int) -> State:
        experts = cast(DispatcherState, super().initial_state(batch))
        found = self.experts.new_zeros(batch, self.memory.topk, dtype=sum_type(self.experts))
        count = torch.zeros(batch, dtype=torch.int64, device=found.device)
        return MemoryState(experts, torch.zeros_like(found, dtype=torch.int64), found, count)

    def forward(self, x: Tensor, ctx: Context = EMPTY) -> Tensor:
        if not x.shape[1]:
            return x
        past = cast(MemoryState, self.initial_state(x.shape[0]))
        read = self.read_experts(x, None, ctx, want_logits=True)
        return self._add_slots(x, read, past, ctx.lengths)[0]

    def prefill(self, x: Tensor, state: State, ctx: Context = EMPTY) -> tuple[Tensor, State]:
        if not x.shape[1]:
            return x, state
        past = cast(MemoryState, state)
        read = self.read_experts(x, past.experts, ctx, want_logits=True)
        y, slots, weights, count = self._add_slots(x, read, past, ctx.lengths)
        return y, MemoryState(cast(DispatcherState, read.state), slots, weights, count)

    def _add_slots(
        self, x: Tensor, read: ExpertRead, past: MemoryState, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Outputs (B, T, D) of what was read from experts and slots; slots, weights and count.

        Each row is laid out in blocks of `size` events, so that all events of a block read the same
        slots: block 0 those of the past, block j those of the row's j-th retrieval here. A row
        begins so far inside block 0 that its first retrieval opens block 1.
        """
        every = self.every
        events = x.shape[1]
        q, y_experts, expert_logits = (
            part.transpose(0, 1)[:, :, :events]
            for part in (read.q, read.y, cast(Tensor, read.logits))
        )
        lengths = torch.full_like(past.count, events) if lengths is None else lengths
        size, blocks = min(every, events), -(-events // min(every, events)) + 1
        event = torch.arange(events, device=x.device)
        first_retrieval = every - 1 - past.count % every  # as a number of an event here
        position = (size - first_retrieval).clamp_min(0)[:, None] + event  # (B, T), in the blocks
        block = position // size

        slots = past.slots[:, None].expand(-1, blocks, -1)
        weights = past.weights[:, None].expand(-1, blocks, -1)
        retrieves = (past.count[:, None] + event + 1) % every == 0
        row, column = (retrieves & (event < lengths[:, None])).nonzero(as_tuple=True)
        found = self.memory(self._question(y_experts[row, :, column].flatten(1), x.dtype))
        slots = slots.index_put((row, block[row, column]), found.indices)
        weights = weights.index_put((row, block[row, column]), found.weights.to(weights.dtype))

        last_block = (position[:, 0] + lengths - 1).clamp_min(0) // size
        number = torch.arange(blocks, device=x.device)
        has_slots = (past.count // every)[:, None] + number > 0
        in_use = (has_slots & (number <= last_block[:, None])).nonzero(as_tuple=True)
        pairs = self._pairs(MemoryRead(slots[in_use], weights[in_use]), x.dtype)
        shape = (len(x), blocks, self.heads, *pairs.shape[-2:])
        pairs = pairs.new_zeros(shape).index_put(in_use, pairs).transpose(1, 2)

        # Queries go into blocks, each beside its block's slots, and what they read comes back.
        source = torch.arange(blocks * size, device=x.device) - position[:, :1]
        q = _gather_events(q, source.clamp(0, events - 1)).unflatten(2, (blocks, size))
        key, value = pairs.to(q.dtype).chunk(2, dim=-1)
        logits = q @ key.transpose(-1, -2) / q.shape[-1] ** 0.5
        slot_logit = _gather_events(logits.logsumexp(-1).flatten(2)[..., None], position)[..., 0]
        y_slots = _gather_events((logits.softmax(-1) @ value).flatten(2, 3), position)
        has_slots = has_slots.gather(1, block)[:, None]
        y = _mix(y_experts, y_slots, _expert_share(expert_logits, slot_logit, has_slots))
        row = torch.arange(len(x), device=x.device)
        out = self._project_out(y.transpose(0, 1), x)
        return out, slots[row, last_block], weights[row, last_block], past.count + lengths

    def step(self, x: Tensor, state: State, ctx: Context = EMPTY) -> tuple[Tensor, State]:
        read, y_slots, share, new = self._read_once(x, cast(MemoryState, state), ctx)
        y = _mix(read.y, y_slots, share)
        return self.output(y.flatten(1).to(x.dtype)), new

    def _read_once(
        self, x: Tensor, past: MemoryState, ctx: Context
    ) -> tuple[ExpertRead, Tensor, Tensor, MemoryState]:
        """What one event x (B, D) reads from the experts, and from the slots (B, H, d); the share
        of the former (B, H); the state after it."""
        read = self.read_experts_step(x, past.experts, ctx)
        count, slots, weights = past.count + 1, past.slots, past.weights
        # Asked at every event though used at every 64th: no branch on data, so that a step can be
        # recorded (and costs the same each time).
        found = self.memory(self._question(read.y.flatten(1), x.dtype))
        retrieves = (count % self.every == 0)[:, None]
        slots = torch.where(retrieves, found.indices, slots)
        weights = torch.where(retrieves, found.weights.to(weights.dtype), weights)
        pairs = self._pairs(MemoryRead(slots, weights), x.dtype).to(read.q.dtype)
        y_slots, logits = read_pairs(read.q, pairs)
        share = _expert_share(
            cast(Tensor, read.logits), logits.logsumexp(-1), (count >= self.every)[:, None]
        )
        new = MemoryState(cast(DispatcherState, read.state), slots, weights, count)
        return read, y_slots, share, new

    def reader(self, x: Tensor, state: State, ctx: Context = EMPTY) -> Reader:
        past = cast(MemoryState, state)
        _, y_slots, share, _ = self._read_once(x, past, ctx)
        log_share = super().reader(x, past.experts, ctx).log_share + share.log()[..., None]
        return Reader(log_share, 1 - share, (1 - share)[..., None] * y_slots)

    def attention(
        self, x: Tensor, state: State, reader: Reader, forgotten: Tensor, ctx: Context = EMPTY
    ) -> Attention:
        return super().attention(x, cast(MemoryState, state).experts, reader, forgotten, ctx)

    def _question(self, y: Tensor, kind: torch.dtype) -> Tensor:
        """What the bank is asked: the direction of what was read from the experts, y (n, D)."""
        direction: Tensor = normalize(y, dim=-1)
        return direction.mul(y.shape[-1] ** 0.5).to(kind)

    def _pairs(self, read: MemoryRead, kind: torch.dtype) -> Tensor:
        """[k', v] of slots and weights (n, k): (n, H, k, 2 d)."""
        found = self.memory.vectors(MemoryRead(read.indices, read.weights.to(kind)))
        key, value = (
            part.unflatten(-1, (self.heads, -1)) for part in self.recall(found).chunk(2, -1)
        )
        return torch.cat([key, value], dim=-1).transpose(1, 2)


def _gather_events(x: Tensor, position: Tensor) -> Tensor:
    """x (B, H, T, n) at positions (B, S) of its events: (B, H, S, n)."""
    index = position[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3])
    return x.gather(2, index)


def _expert_share(expert_logits: Tensor, slot_logit: Tensor, has_slots: Tensor) -> Tensor:
    """The experts' share (...) of one softmax over experts and slots.

    expert_logits (..., R); slot_logit (...), the logsumexp over slots; has_slots, False where
    nothing was retrieved yet.
    """
    return torch.where(has_slots, (expert_logits.logsumexp(-1) - slot_logit).sigmoid(), 1.0)


def _mix(y_experts: Tensor, y_slots: Tensor, share: Tensor) -> Tensor:
    """What was read from the experts and from the slots (..., d), by the former's share (...)."""
    share = share[..., None]
    return share * y_experts + (1 - share) * y_slots
