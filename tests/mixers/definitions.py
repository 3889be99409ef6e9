"""Our mixers as their papers write them: slowly, one whole history at a time.

Each is registered with longrec.checks.definitions, where `define` finds it, and so are the examples
that the checks go through. Projections are plain products, and the mechanism is the `naive_...`
function of longrec.ops. Those of other systems are in files define_FAMILY.py beside this one.
"""

from __future__ import annotations

import math
from functools import partial
from importlib import import_module
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from longrec.checks.definitions import EXAMPLES, Defined, Make, define, examples_of
from longrec.mixers import MIXERS
from longrec.mixers.banded import BandedMixer, BandedState
from longrec.mixers.dispatcher import MAX_TEMPERATURE, DispatcherMixer, DispatcherState
from longrec.mixers.dispatcher_bidirectional import BidirectionalDispatcherMixer
from longrec.mixers.dispatcher_memory import MemoryDispatcherMixer, MemoryState
from longrec.mixers.hydra import BidirectionalHydraMixer, HydraMixer, HydraState
from longrec.mixers.product_keys import InterestMemory, MemoryRead
from longrec.mixers.short_conv import ShortConvolution
from longrec.mixers.softmax import SoftmaxMixer
from longrec.ops.attention import naive_attention, rotate
from longrec.ops.dispatcher import naive_experts, naive_read
from longrec.ops.hydra import naive_hydra
from longrec.ops.product_keys import naive_top_slots
from longrec.ops.short_conv import naive_convolution

__all__ = ["EXAMPLES", "define", "define_convolution", "define_memory", "examples_of"]

small_bank = partial(MemoryDispatcherMixer, experts=3, slots=64, topk=4)
OURS: dict[str, dict[str, Make]] = {
    "banded": {
        "band of 5": partial(BandedMixer, heads=2, band=5),
        "wide": partial(BandedMixer, heads=1, band=200),
    },
    "dispatcher": {
        "default": partial(DispatcherMixer, experts=5),
        "plain": partial(DispatcherMixer, experts=4, forgetting="none", convolution=0),
        "by time": partial(DispatcherMixer, heads=1, experts=3, forgetting="time", chunk=20),
    },
    "dispatcher-bidirectional": {
        "one head": partial(BidirectionalDispatcherMixer, heads=1, experts=4),
        "two heads": partial(BidirectionalDispatcherMixer, experts=5),
    },
    "dispatcher-memory": {
        "every 8": partial(small_bank, every=8),
        "every 64, by time": partial(small_bank, forgetting="time", chunk=20, balance=False),
    },
    "hydra": {
        "paper": partial(HydraMixer, normalise="none", convolution=0),
        "count": partial(HydraMixer, normalise="count", convolution=0),
        "default": HydraMixer,
    },
    "hydra-bidirectional": {
        "paper": partial(BidirectionalHydraMixer, normalise="none"),
        "count": partial(BidirectionalHydraMixer, normalise="count"),
        "default": BidirectionalHydraMixer,
    },
    "softmax": {
        "one head": partial(MIXERS["softmax"], heads=1),
        "two heads": partial(MIXERS["softmax"], heads=2),
    },
    "softmax-bidirectional": {
        "one head": partial(MIXERS["softmax-bidirectional"], heads=1),
        "two heads": partial(MIXERS["softmax-bidirectional"], heads=2),
    },
}


EXAMPLES.update(OURS)


def project(x: Tensor, weight: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """x (T, D) times `parts` stacked matrices: each (T, H, d)."""
    return tuple((x @ w.t()).unflatten(-1, (heads, -1)) for w in weight.chunk(parts))


def define_convolution(convolution: ShortConvolution, x: Tensor) -> tuple[Tensor, Tensor]:
    """One history x (T, D) -> (T, D), and the state after it with a batch axis."""
    last = torch.cat([convolution.initial_state(1)[0], x])[len(x) :][None]
    return naive_convolution(x, convolution.weight.t()), last


def define_memory(memory: InterestMemory, u: Tensor) -> MemoryRead:
    """What questions u (n, D) find when every slot is scored."""
    with patch("longrec.mixers.product_keys.top_slots", naive_top_slots):
        return memory(u)


@define.register
def _(mixer: SoftmaxMixer, x: Tensor, times: Tensor) -> Defined:
    q, k, v = project(x, mixer.inputs.weight, 3, mixer.heads)
    y = naive_attention(q, k, v, causal=mixer.causal).flatten(1)
    return y @ mixer.output.weight.t(), None


@define.register
def _(mixer: BandedMixer, x: Tensor, times: Tensor) -> Defined:
    position = torch.arange(len(x))[:, None]
    q, k, v = project(x, mixer.inputs.weight, 3, mixer.heads)
    q, k = rotate(q, position), rotate(k, position)
    y = naive_attention(q, k, v, band=mixer.band).flatten(1)
    keys, values = (
        torch.cat([part.new_zeros(mixer.band, *part.shape[1:]), part])[-mixer.band :]
        for part in (k, v)
    )
    state = BandedState(
        keys.transpose(0, 1)[None], values.transpose(0, 1)[None], torch.tensor([len(x)])
    )
    return y @ mixer.output.weight.t(), state


@define.register
def _(mixer: HydraMixer, x: Tensor, times: Tensor) -> Defined:
    h, inputs = define_convolution(mixer.convolution, x)
    q, k, v = (h @ w.t() for w in mixer.inputs.weight.chunk(3))
    y, total = naive_hydra(q, k, v, mixer.normalise)
    state = HydraState(total[None], x.new_full((1,), len(x)), inputs)
    return y @ mixer.output.weight.t(), state


@define.register
def _(mixer: BidirectionalHydraMixer, x: Tensor, times: Tensor) -> Defined:
    q, k, v = (x @ w.t() for w in mixer.inputs.weight.chunk(3))
    y, _ = naive_hydra(q, k, v, mixer.normalise, causal=False)
    return y @ mixer.output.weight.t(), None


@define.register
def _(mixer: BidirectionalDispatcherMixer, x: Tensor, times: Tensor) -> Defined:
    k, v, q = project(x, mixer.inputs.weight, 3, mixer.heads)
    (aim,) = project(mixer.experts, mixer.aim.weight, 1, mixer.heads)
    new = naive_attention(aim, k, v, causal=False).flatten(1)
    key, value = project(new, mixer.gathered.weight, 2, mixer.heads)
    return naive_attention(q, key, value, causal=False).flatten(1), None


def define_experts(
    mixer: DispatcherMixer, x: Tensor, times: Tensor
) -> tuple[Tensor, Tensor, DispatcherState]:
    """Of x (T, D): q (T, H, d), the experts after each event (T, H, R, 2 d), the last state."""
    h, last_inputs = define_convolution(mixer.convolution, x)
    q, k, k2, v = project(h, mixer.inputs.weight, 4, mixer.heads)
    tau = MAX_TEMPERATURE / (1 + (-mixer.temperature).exp())
    e = mixer.experts / mixer.experts.norm(dim=-1, keepdim=True)
    k = k / k.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    scores = tau * torch.einsum("hrd,thd->thr", e, k)
    forget = torch.zeros_like(scores)
    if mixer.forgetting != "none":
        f = torch.ones(len(x), 1, 1, dtype=x.dtype)
        if mixer.forgetting == "time":
            for t in range(len(x)):
                gap = max(0, int(times[t] - times[:t].max())) if t else 0
                f[t] = math.log1p(gap / mixer.time_scale)
        forget = (mixer.log_rate.exp() * f).clamp_max(1)
    empty = DispatcherMixer.initial_state(mixer, 1)
    experts, log_weight = naive_experts(
        torch.cat([k2, v], -1).transpose(0, 1)[None],
        scores.transpose(0, 1)[None],
        forget.expand_as(scores).transpose(0, 1)[None],
        empty.mean,
        empty.log_weight,
    )
    experts = experts[0].transpose(0, 1)
    time = times.max()[None] if mixer.reads_times else empty.time
    return q, experts, DispatcherState(experts[-1:], log_weight, last_inputs, time)


@define.register
def _(mixer: DispatcherMixer, x: Tensor, times: Tensor) -> Defined:
    q, experts, state = define_experts(mixer, x, times)
    return naive_read(q, experts).flatten(1) @ mixer.output.weight.t(), state


@define.register
def _(mixer: MemoryDispatcherMixer, x: Tensor, times: Tensor) -> Defined:
    q, experts, expert_state = define_experts(mixer, x, times)
    y, empty, memory = naive_read(q, experts).flatten(1), mixer.initial_state(1), mixer.memory
    rows, slots, weights = [], empty.slots, empty.weights
    for t in range(len(x)):
        row = y[t]
        if (t + 1) % mixer.every == 0:
            direction = row / row.norm().clamp_min(1e-12)
            slots, weights = define_memory(memory, (direction * len(row) ** 0.5)[None])
        if t + 1 >= mixer.every:
            found = memory.norm(memory.slots[slots[0]]) * weights[0][:, None]
            pairs = torch.cat(project(found, mixer.recall.weight, 2, mixer.heads), -1)
            row = naive_read(q[t], torch.cat([experts[t], pairs.transpose(0, 1)], 1)).flatten()
        rows.append(row)
    state = MemoryState(expert_state, slots, weights, torch.tensor([len(x)]))
    return torch.stack(rows) @ mixer.output.weight.t(), state


for _file in sorted(Path(__file__).parent.glob("define_*.py")):
    import_module(f"mixers.{_file.stem}")
