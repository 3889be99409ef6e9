"""What the last event attends to, in the dispatcher: held to the slow definition, and to y."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mixers.definitions import define, define_convolution
from torch import Tensor

from longrec.checks.mixers import build, events
from longrec.mixers import Context
from longrec.mixers.dispatcher import Attention, DispatcherMixer, Reader
from longrec.mixers.dispatcher_memory import MemoryDispatcherMixer

bank = partial(MemoryDispatcherMixer, experts=3, slots=64, topk=4)
CASES = {
    "by events": partial(DispatcherMixer, experts=5),
    "by time": partial(DispatcherMixer, heads=3, experts=3, forgetting="time"),
    "no forgetting": partial(DispatcherMixer, experts=4, forgetting="none"),
    "no convolution": partial(DispatcherMixer, heads=1, experts=4, convolution=0),
    "quick forgetting": partial(DispatcherMixer, experts=4, half_lives=(0.1, 2.0)),
    "memory bank": partial(bank, every=8),
    "memory bank, by time": partial(bank, every=5, forgetting="time"),
    "memory bank, not reached": partial(bank, every=64),
}


def make(case: str) -> DispatcherMixer:
    """With values of the bank that count (they begin at 0)."""
    mixer = build(CASES[case]).eval()
    if isinstance(mixer, MemoryDispatcherMixer):
        with torch.no_grad():
            mixer.recall.weight.normal_()
    return mixer


@torch.no_grad()
def attend(
    mixer: DispatcherMixer, x: Tensor, times: Tensor, cuts: list[int]
) -> tuple[Reader, Attention]:
    """The last event's attention in windows that end at `cuts`, put together."""
    bounds = [0, *cuts, len(x)]
    states, state = [mixer.initial_state(1)], mixer.initial_state(1)
    for start, end in pairwise(bounds):
        end = min(end, len(x) - 1)
        if end > start:
            ctx = Context(times=times[None, start:end])
            _, state = mixer.prefill(x[None, start:end], state, ctx)
        states.append(state)
    reader = mixer.reader(x[-1:], state, Context(times=times[-1:]))
    forgotten, found = torch.zeros_like(reader.log_share), []
    for number in reversed(range(len(bounds) - 1)):
        start, end = bounds[number : number + 2]
        ctx = Context(times=times[None, start:end])
        part = mixer.attention(x[None, start:end], states[number], reader, forgotten, ctx)
        forgotten = part.forgotten
        found.insert(0, part)
    mass, value = (torch.cat([f[n] for f in found], dim=2) for n in (0, 1))
    return reader, Attention(mass, value, forgotten)


@torch.no_grad()
def attend_by_definition(mixer: DispatcherMixer, x: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """A (H, T) and the memory bank's share (H,), number by number."""
    h, _ = define_convolution(mixer.convolution, x)
    q, k, k2, _ = (
        (h @ w.t()).unflatten(-1, (mixer.heads, -1)) for w in mixer.inputs.weight.chunk(4)
    )
    heads, experts, width = mixer.experts.shape
    mass, shares = torch.zeros(heads, len(x), dtype=x.dtype), []
    for n in range(heads):
        weights = torch.zeros(experts, len(x), dtype=x.dtype)
        logits = []
        for j in range(experts):
            tau = 12 / (1 + math.exp(-mixer.temperature[n, j]))
            aim = mixer.experts[n, j] / mixer.experts[n, j].norm()
            lost = 0.0
            for u in reversed(range(len(x))):
                score = tau * float(aim @ k[u, n] / k[u, n].norm())
                weights[j, u] = math.exp(score - lost)
                lost += forgotten_at(mixer, n, j, times[: u + 1])
            weights[j] /= weights[j].sum()
            logits.append(float(q[-1, n] @ (weights[j] @ k2[:, n])) / width**0.5)
        logits = x.new_tensor([*logits, *slot_logits(mixer, x, times, q[-1, n], n)])
        share = logits.softmax(0)
        mass[n] = share[:experts] @ weights
        shares.append(share[experts:].sum())
    return mass, torch.stack(shares)


def forgotten_at(mixer: DispatcherMixer, head: int, expert: int, times: Tensor) -> float:
    """What an expert forgets at the last of these events."""
    if mixer.forgetting == "none":
        return 0.0
    f = 1.0
    if mixer.forgetting == "time":
        gap = max(0, int(times[-1] - times[:-1].max())) if len(times) > 1 else 0
        f = math.log1p(gap / mixer.time_scale)
    return min(math.exp(mixer.log_rate[head, expert]) * f, 1.0)


def slot_logits(
    mixer: DispatcherMixer, x: Tensor, times: Tensor, q: Tensor, head: int
) -> list[float]:
    if not isinstance(mixer, MemoryDispatcherMixer) or len(x) < mixer.every:
        return []
    _, state = define(mixer, x, times)
    keys = mixer.recall.weight.chunk(2)[0]
    kept = mixer.memory.norm(mixer.memory.slots[state.slots[0]]) * state.weights[0][:, None]
    width = len(q)
    return [float(q @ (keys @ m)[head * width : (head + 1) * width]) / width**0.5 for m in kept]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("length", [1, 2, 7, 33])
def test_it_is_the_definitions_weight_of_each_event(case, length):
    mixer = make(case)
    x, times = events(length)
    reader, found = attend(mixer, x, times, [])
    mass, memory = attend_by_definition(mixer, x, times)
    torch.testing.assert_close(found.mass[0], mass, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(reader.memory[0], memory, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=8)
@given(
    length=st.integers(1, 70),
    seed=st.integers(0, 99),
    late=st.booleans(),
    cuts=st.lists(st.integers(1, 69), max_size=3),
)
def test_it_sums_to_one_and_gives_the_output_however_it_is_cut(case, length, seed, late, cuts):
    mixer = make(case)
    x, times = events(length, seed)
    if late:
        times = times[torch.randperm(length, generator=torch.Generator().manual_seed(seed))]
    cuts = sorted({cut for cut in cuts if cut < length})
    reader, found = attend(mixer, x, times, cuts)
    torch.testing.assert_close(
        found.mass.sum(-1) + reader.memory, torch.ones(1, mixer.heads).double(), rtol=0, atol=1e-10
    )
    assert (found.mass >= 0).all()
    assert (reader.memory >= 0).all()
    y = torch.einsum("bht,bhtd->bhd", found.mass, found.value) + reader.recalled
    with torch.no_grad():
        wanted = mixer(x[None], Context(times=times[None]))[:, -1]
        torch.testing.assert_close(mixer.output(y.flatten(1)), wanted, rtol=1e-10, atol=1e-10)
    _, whole = attend(mixer, x, times, [])
    torch.testing.assert_close(found.mass, whole.mass, rtol=1e-9, atol=1e-13)


def test_the_memory_bank_has_a_share_from_its_first_retrieval_on():
    mixer = make("memory bank")
    for length, some in [(7, False), (8, True), (9, True)]:
        reader, _ = attend(mixer, *events(length), [])
        assert bool((reader.memory > 0).all()) is some
        assert bool(reader.recalled.any()) is some


def test_a_long_history_in_float32_sums_to_one():
    for case in ("by events", "no forgetting", "memory bank"):
        mixer = make(case).float()
        x, times = events(20_000)
        cuts = list(range(4096, 20_000, 4096))
        reader, found = attend(mixer, x.float(), times, cuts)
        total = found.mass.double().sum(-1) + reader.memory
        assert (total - 1).abs().max() < 1e-4
