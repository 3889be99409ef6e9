"""ELASTIC's memory bank: a large table of interests, read sparsely through product keys.

ELASTIC (arXiv 2408.09380) retrieves a user's interests from M slots; product keys (arXiv
1907.05242) make that cost O(sqrt(M) + k^2). With u the vector that asks,

    [q1; q2] = LayerNorm(LayerNorm(MLP(u)) - 10 c)          c = 0: LayerNorm(MLP(u))
    s_ij = <q1, key1_i> + <q2, key2_j>        slot number i sqrt(M) + j
    I = the k slots of largest s_ij + 10 (b1_i + b2_j)
    w = k softmax(s_I),   the answer is w_m LayerNorm(slot_m) for m in I

The largest k sums are found exactly (longrec.ops.product_keys). Weights carry the gradient to the
keys and to the query net, so nothing is normalised after them; they sum to k. LayerNorm before the
weighting lets a slot that is seldom read learn at all.

Two parameters whose gradients are not the loss's balance the use of slots, against collapse (few
slots used). The centre c follows the mean question, so that what users have in common does not
decide what all of them find. The biases b choose and do not weigh; each gets its sub-key's use
above the mean (balancing without a loss, arXiv 2408.15664), so that the optimiser lowers what is
read too often.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, layer_norm

from longrec.ops.product_keys import give_gradient, top_slots

SPARSE_ROWS = 1 << 14
"""Tables of at least so many rows have sparse gradients and are updated row by row."""
BALANCE_REACH = 10.0
"""Factor of b and c: scores are a few units wide, and Adam moves parameters by 1e-3 per step."""
BALANCE_SCALE = 1e-4
"""Factor of their gradients: Adam divides it out, and clipping must not feel them."""


class MemoryRead(NamedTuple):
    """Which slots n questions found, (n, k) int64, and their weights, (n, k), which sum to k."""

    indices: Tensor
    weights: Tensor


class InterestMemory(nn.Module):
    """A bank of M interests, read through product keys.

    Parameters
    ----------
    dim : int
        Width D of questions and slots, even.
    slots : int
        M, a square number.
    topk : int
        k, slots read per question, at most M.
    balance : bool
        Whether use is balanced while training.
    """

    undecayed = ("bias",)

    def __init__(self, dim: int, slots: int, topk: int, balance: bool = True) -> None:
        super().__init__()
        side = math.isqrt(slots)
        if side * side != slots or not 1 <= topk <= slots or dim % 2:
            raise ValueError(f"no memory of {slots} slots of width {dim}, {topk} read at a time")
        self.side, self.topk, self.balance = side, topk, balance
        self.sparse = slots >= SPARSE_ROWS
        self.query = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.centre = nn.Parameter(torch.zeros(dim))
        self.query_norm = nn.LayerNorm(dim)
        self.keys = nn.Parameter(torch.randn(2, side, dim // 2) * (dim // 2) ** -0.5)
        self.bias = nn.Parameter(torch.zeros(2, side))
        self.slots = nn.Parameter(torch.randn(slots, dim) * 0.02)
        self.norm = nn.LayerNorm(dim)

    def forward(self, u: Tensor) -> MemoryRead:
        """Find the slots for questions u (n, D)."""
        questions = self._questions(u).unflatten(-1, (2, -1)).transpose(0, 1)  # (2, n, D / 2)
        scores = questions @ self.keys.transpose(1, 2)  # (2, n, S), S the root of M
        with torch.no_grad():
            halves = top_slots(scores + BALANCE_REACH * self.bias[:, None], self.topk)  # (2, n, k)
        weights = self.topk * scores.gather(2, halves).sum(0).softmax(-1)
        if self.balance and self.training:
            # Counts, so not in half precision, which counts up to 256 or 2,048.
            use = torch.zeros_like(self.bias, dtype=torch.float32, requires_grad=False)
            ones = torch.ones_like(halves.flatten(1), dtype=use.dtype)
            use.scatter_add_(1, halves.flatten(1), ones)
            above_mean = use / self.topk - scores.shape[1] / self.side
            above_mean = above_mean.to(self.bias.dtype)
            weights = give_gradient(weights, self.bias, above_mean * BALANCE_SCALE)
        return MemoryRead(halves[0] * self.side + halves[1], weights)

    def vectors(self, read: MemoryRead) -> Tensor:
        """What was read, weighted: (n, k, D)."""
        found = self.norm(embedding(read.indices, self.slots, sparse=self.sparse))
        return cast(Tensor, found * read.weights[..., None])

    def _questions(self, u: Tensor) -> Tensor:
        """[q1; q2] of u (n, D); while training, the centre gets its gradient."""
        q = layer_norm(self.query(u), self.centre.shape)
        centre = BALANCE_REACH * self.centre.detach()
        if self.balance and self.training:
            q = give_gradient(q, self.centre, (centre - q.detach()).sum(0) * BALANCE_SCALE)
        return cast(Tensor, self.query_norm(q - centre))


def check_memory(slots: int, topk: int, dim: int) -> None:
    """Raise ValueError for a config whose memory bank cannot be built; 0 slots are none."""
    side = math.isqrt(max(slots, 0))
    if side * side != slots:
        near = f"{side * side} or {(side + 1) ** 2}" if side else "0 (none) or 256"
        raise ValueError(
            f"memory_slots is {slots}; product keys need a square number, such as {near}"
        )
    if slots and not 1 <= topk <= slots:
        raise ValueError(f"memory_topk is {topk}; it must lie in 1..memory_slots, {slots}")
    if slots and dim % 2:
        raise ValueError(f"dim is {dim}; a memory bank needs it even")


class Usage:
    """How often each slot was read, and what that says of the bank."""

    def __init__(self, slots: int) -> None:
        self.counts = torch.zeros(slots, dtype=torch.int64)

    def add(self, indices: Tensor) -> None:
        """Count the slots read."""
        self.counts += torch.bincount(indices.flatten().cpu(), minlength=len(self.counts))

    def statistics(self) -> dict[str, float]:
        """Share of slots used, entropy of their use over log M, KL to uniform use in nats.

        Empty where there is no memory bank or nothing was read. With n slots read in all, the
        share cannot exceed n / M, nor the entropy log n / log M.
        """
        total = int(self.counts.sum())
        if not total:
            return {}
        used = self.counts[self.counts > 0].double() / total
        entropy, most = float(-(used * used.log()).sum()), math.log(len(self.counts))
        return {
            "memory_share": len(used) / len(self.counts),
            "memory_entropy": entropy / most if most else 1.0,
            "memory_kl": most - entropy,
        }


@contextmanager
def watch_usage(model: nn.Module) -> Iterator[Usage]:
    """Count what the memory banks of a model read while the context lasts."""
    banks = [module for module in model.modules() if isinstance(module, InterestMemory)]
    usage, hooks, first_slot = Usage(sum(len(bank.slots) for bank in banks)), [], 0
    for bank in banks:

        def count(_: nn.Module, __: Any, read: MemoryRead, first: int = first_slot) -> None:
            usage.add(first + read.indices)

        hooks.append(bank.register_forward_hook(count))
        first_slot += len(bank.slots)
    try:
        yield usage
    finally:
        for hook in hooks:
            hook.remove()
