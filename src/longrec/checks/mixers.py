"""The six properties that every mixer has (docs/mixers.md), as checks that raise CheckFailed.

They know nothing of any one mixer. `make` is a constructor that takes the width. A check that asks
nothing of such a mixer raises NotApplicable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from operator import itemgetter

import torch
from torch import Tensor

from longrec.checks.compare import NotApplicable, applies, finite, parts, require, same, same_state
from longrec.checks.cost import Cost, Counter, check_growth
from longrec.checks.cost import exponents as growth
from longrec.checks.definitions import Make, define
from longrec.mixers import Context, Mixer, State, StreamingMixer
from longrec.mixers.base import map_state

DIM = 12
LENGTHS = (1, 2, 7, 33, 50, 97)
NO_STATE = "it is no StreamingMixer"
HALF_TOLERANCE = 0.05
GARBAGE = 1e3  # stands in padding, where nothing may read it
CHANGE = torch.linspace(0, 6, DIM, dtype=torch.float64)  # of an event; a norm takes equal ones out


def build(make: Make, dim: int = DIM, seed: int = 0, kind: torch.dtype = torch.float64) -> Mixer:
    torch.manual_seed(seed)
    return make(dim).to(kind)


def events(length: int, seed: int = 0, dim: int = DIM) -> tuple[Tensor, Tensor]:
    """x (T, D) in float64 and rising times (T,) with ties and gaps of all sizes."""
    random = torch.Generator().manual_seed(1000 * seed + length)
    x = torch.randn(length, dim, generator=random, dtype=torch.float64)
    gaps = 10 ** (6 * torch.rand(length, generator=random))
    ties = torch.rand(length, generator=random) < 0.2
    return x, (gaps * ~ties).long().cumsum(0) - 5000


@contextmanager
def nan_in_empty_tensors() -> Iterator[None]:
    """Memory that torch.empty gives holds NaN, so that reading it before writing shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _backward(mixer: Mixer, x: Tensor, y: Tensor, state: State | None) -> dict[str, Tensor]:
    """Gradients of a weighted sum of everything that came out, by name."""
    random = torch.Generator().manual_seed(7)

    def weigh(part: Tensor) -> Tensor:
        weights = torch.randn(part.shape, generator=random, dtype=torch.float64)
        return (part * weights.to(part.dtype)).sum()

    total = weigh(y)
    for _, part in parts(state or ()):
        if part.is_floating_point() and part.requires_grad:
            total = total + weigh(part)
    wanted = {"input": x} | {k: p for k, p in mixer.named_parameters() if p.numel()}
    grads = torch.autograd.grad(total, list(wanted.values()), allow_unused=True)
    zero = {name: torch.zeros_like(part) for name, part in wanted.items()}
    return {
        f"gradient of {name}": zero[name] if grad is None else grad
        for name, grad in zip(wanted, grads, strict=True)
    }


@cache
def defined(make: Make, length: int) -> tuple[Tensor, State | None, dict[str, Tensor]]:
    """Outputs, final state and gradients of a mixer's definition, in float64 of float32 numbers."""
    x, times = events(length)
    mixer, x = build(make, kind=torch.float32).double(), x.float().double().requires_grad_()
    y, state = define(mixer, x, times)
    return y.detach(), state, _backward(mixer, x, y, state)


def check_definition(make: Make, length: int, kind: torch.dtype, split: bool = False) -> None:
    """1: outputs, final states and gradients are those of the definition in float64.

    With `split`, through a state handed from one prefill to the next.
    """
    tolerance = 1e-10 if kind == torch.float64 else 1e-5
    mixer = build(make, kind=torch.float32).to(kind)
    applies(not split or isinstance(mixer, StreamingMixer), NO_STATE)
    y_slow, state_slow, wanted = defined(make, length)
    x, times = events(length)
    x_fast = x.float().to(kind).requires_grad_()
    with nan_in_empty_tensors():
        state: State | None = None
        if isinstance(mixer, StreamingMixer):
            state, outputs = mixer.initial_state(1), []
            for piece in _halves(length) if split else [slice(0, length)]:
                ctx = Context(times=times[None, piece])
                y, state = mixer.prefill(x_fast[None, piece], state, ctx)
                outputs.append(y[0])
            y_fast = torch.cat(outputs)
        else:
            y_fast = mixer(x_fast[None], Context(times=times[None]))[0]
        grads = _backward(mixer, x_fast, y_fast, state)
    same("output", y_fast, y_slow, tolerance)
    if state_slow is not None and state is not None:
        same_state(state, state_slow, tolerance)
    for name, grad in grads.items():
        same(name, grad, wanted[name], tolerance)


def _halves(length: int) -> list[slice]:
    cut = max(length // 3, 1)
    return [slice(0, cut), slice(cut, length)] if length > 1 else [slice(0, 1)]


def check_causal(make: Make, length: int = 97) -> None:
    """2: another event t, and another time of it, changes no output before t."""
    mixer = build(make)
    applies(mixer.causal, "it says causal = False")
    x, times = events(length)
    y = mixer(x[None], Context(times=times[None]))[0]
    for t in (0, 1, 5, length // 2, length - 1):
        other, later = x.clone(), times.clone()
        other[t] += CHANGE
        later[t:] += 86_400
        z = mixer(other[None], Context(times=later[None]))[0]
        same(f"outputs before event {t}", z[:t], y[:t], 1e-13)
        require(not torch.allclose(z[t], y[t]), f"event {t} does not change its own output")


def check_sees_all(make: Make, length: int = 33) -> None:
    """2, for bidirectional ones: every event changes the output at every other."""
    mixer = build(make)
    applies(not mixer.causal, "it says causal = True")
    x, times = events(length)
    y = mixer(x[None], Context(times=times[None]))[0]
    for t in (0, length // 2, length - 1):
        other = x.clone()
        other[t] += CHANGE
        change = (mixer(other[None], Context(times=times[None]))[0] - y).abs().amax(1)
        require((change > 1e-9).all(), f"event {t} does not change every output")


def check_splits(
    make: Make, pieces: list[list[int]], steps: int, seed: int = 0, tolerance: float = 1e-10
) -> None:
    """3: prefills of pieces[i][b] events of row b, then steps, give what forward gives alone."""
    mixer = build(make)
    if not isinstance(mixer, StreamingMixer):
        raise NotApplicable(NO_STATE)
    batch = len(pieces[0])
    totals = [sum(piece[b] for piece in pieces) + steps for b in range(batch)]
    rows = [events(total, seed + b) for b, total in enumerate(totals)]
    at, state = [0] * batch, mixer.initial_state(batch)
    outputs: list[list[Tensor]] = [[] for _ in range(batch)]
    for number, piece in enumerate(pieces):
        width = max(max(piece), 1) + number % 3  # sometimes wider than any row needs
        x = torch.full((batch, width, DIM), GARBAGE, dtype=torch.float64)
        times = torch.full((batch, width), 10**10)
        for b, count in enumerate(piece):
            x[b, :count] = rows[b][0][at[b] : at[b] + count]
            times[b, :count] = rows[b][1][at[b] : at[b] + count]
        ctx = Context(lengths=torch.tensor(piece), times=times)
        y, new = mixer.prefill(x, state, ctx)
        for b, count in enumerate(piece):
            outputs[b].append(y[b, :count])
            at[b] += count
            if not count:
                for (name, part), (_, before) in zip(parts(new), parts(state), strict=True):
                    same(f"{name} of a row without events", part[b], before[b], 1e-14)
        state = new
    for _ in range(steps):
        x = torch.stack([rows[b][0][at[b]] for b in range(batch)])
        times = torch.stack([rows[b][1][at[b]] for b in range(batch)])
        y, state = mixer.step(x, state, Context(times=times))
        for b in range(batch):
            outputs[b].append(y[b][None])
            at[b] += 1
    for b, (x, times) in enumerate(rows):
        if not totals[b]:
            continue
        whole, final = mixer.prefill(x[None], mixer.initial_state(1), Context(times=times[None]))
        same(f"outputs of row {b}", torch.cat(outputs[b]), whole[0], tolerance)
        same_state(map_state(itemgetter(slice(b, b + 1)), state), final, tolerance)


def check_no_events(make: Make) -> None:
    """3: no events (T = 0) give no outputs, and leave the state as it was."""
    mixer = build(make)
    x, times = (part[None] for part in events(7))
    none, ctx = x[:, :0], Context(times=times[:, :0])
    y = mixer(none, ctx)
    require(y.shape[:2] == none.shape[:2], f"forward of no events: outputs {tuple(y.shape)}")
    if not isinstance(mixer, StreamingMixer):
        return
    _, after = mixer.prefill(x, mixer.initial_state(1), Context(times=times))
    for state in (mixer.initial_state(1), after):
        for given in (ctx, Context(torch.tensor([0]), ctx.times)):
            y, new = mixer.prefill(none, state, given)
            require(
                y.shape[:2] == none.shape[:2], f"prefill of no events: outputs {tuple(y.shape)}"
            )
            for (name, part), (_, before) in zip(parts(new), parts(state), strict=True):
                require(torch.equal(part, before), f"{name}: not as it was before no events")


@torch.no_grad()
def check_half_precision(make: Make, length: int, kind: torch.dtype = torch.bfloat16) -> None:
    """3: in half precision states are off by rounding alone, however many events they count.

    Numbers of events and of places are therefore integers, or float32: bfloat16 counts to 256.
    """
    low = build(make, kind=kind)
    if not isinstance(low, StreamingMixer):
        raise NotApplicable(NO_STATE)
    high = build(make, kind=torch.float32)
    assert isinstance(high, StreamingMixer)
    high.load_state_dict(low.state_dict())
    x, times = (part[None] for part in events(length))
    x = x.to(kind)
    _, wanted = high.prefill(x.float(), high.initial_state(1), Context(times=times))
    _, got = low.prefill(x, low.initial_state(1), Context(times=times))
    same_state(got, wanted, HALF_TOLERANCE)
    # The same events in a longer batch, and cut in two.
    padded = Context(torch.tensor([length]), torch.nn.functional.pad(times, (0, 5), value=10**10))
    wide = torch.nn.functional.pad(x, (0, 0, 0, 5), value=GARBAGE)
    same_state(low.prefill(wide, low.initial_state(1), padded)[1], wanted, HALF_TOLERANCE)
    state = low.initial_state(1)
    for piece in (slice(0, length // 2), slice(length // 2, length - 1)):
        _, state = low.prefill(x[:, piece], state, Context(times=times[:, piece]))
    _, state = low.step(x[:, -1], state, Context(times=times[:, -1]))
    same_state(state, wanted, HALF_TOLERANCE)


def check_empty_rows(make: Make) -> None:
    """3: rows without events leave every output and gradient finite, also through the state."""
    mixer = build(make)
    x, times = torch.randn(2, 5, DIM, dtype=torch.float64), torch.arange(5).expand(2, 5) * 100
    x.requires_grad_()
    ctx, after = Context(torch.tensor([0, 3]), times), Context(torch.tensor([2, 0]), times + 1000)
    if isinstance(mixer, StreamingMixer):
        first, state = mixer.prefill(x, mixer.initial_state(2), ctx)
        later, _ = mixer.prefill(x, state, after)
    else:
        first, later = mixer(x, ctx), mixer(x, after)
    finite("outputs of a row without events", first)
    (first[1, :3].sum() + later[0, :2].sum()).backward()
    for key, part in {"input": x, **dict(mixer.named_parameters())}.items():
        if part.grad is not None:
            finite(f"gradient of {key}", part.grad)


def check_neighbours(make: Make, train: bool) -> None:
    """4: a history alone, padded, and among any neighbours gives the same outputs."""
    mixer = build(make).train(train)
    lengths = [1, 7, 50, 2, 33]
    rows = [events(n, seed) for seed, n in enumerate(lengths)]
    with torch.set_grad_enabled(train):
        alone = [mixer(x[None], Context(times=t[None]))[0] for x, t in rows]
        for chosen in ([0, 1, 2, 3, 4], [4, 2], [1, 1, 0]):
            width = max(lengths[n] for n in chosen) + 3
            x = torch.full((len(chosen), width, DIM), GARBAGE, dtype=torch.float64)
            times = torch.zeros(len(chosen), width, dtype=torch.int64)
            for place, n in enumerate(chosen):
                x[place, : lengths[n]], times[place, : lengths[n]] = rows[n]
            y = mixer(x, Context(torch.tensor([lengths[n] for n in chosen]), times))
            for place, n in enumerate(chosen):
                same(f"row {n} padded", y[place, : lengths[n]], alone[n], 1e-11)


EXTREMES: dict[str, Callable[[Tensor], Tensor]] = {
    "zeros": torch.zeros_like,
    "constant": torch.ones_like,
    "tiny": lambda x: x * 1e-30,
    "large": lambda x: x * 1e4,
    "huge": lambda x: x.sign() * 1e18,
    "mixed": lambda x: x * torch.logspace(-30, 4, len(x))[:, None],
}


def check_extremes(make: Make, name: str, length: int = 97) -> None:
    """5: outputs and states hold no NaN in float32, and gradients neither.

    Gradients at 1e18 are left out: they are products of three such numbers, beyond float32.
    """
    x, times = events(length)
    x = EXTREMES[name](x).float()[None].requires_grad_()
    mixer = build(make, kind=torch.float32)
    y = mixer(x, Context(times=times[None]))
    finite(f"{name}: outputs", y)
    if isinstance(mixer, StreamingMixer):
        _, state = mixer.prefill(x, mixer.initial_state(1), Context(times=times[None]))
        _, state = mixer.step(x[:, 0], state, Context(times=times[-1:]))
        for key, part in parts(state):
            finite(f"{name}: {key}", part)
    if name == "huge":
        return
    (y / y.detach().abs().max().clamp_min(1)).sum().backward()
    for key, part in {"input": x, **dict(mixer.named_parameters())}.items():
        if part.grad is not None:
            finite(f"{name}: gradient of {key}", part.grad)


@torch.no_grad()
def check_long(make: Make, length: int, dim: int = 4) -> None:
    """5, for linear ones: outputs are finite however long the history, up to what they can read."""
    mixer = build(make, dim, kind=torch.float32)
    length = min(length, mixer.max_length or length)
    x = torch.randn(1, length, dim, generator=torch.Generator().manual_seed(0))
    y = mixer(x, Context(times=torch.arange(length)[None] * 60))
    finite(f"outputs at {length} events", y)


def cost_of(make: Make, length: int, backward: bool = True, dim: int = 4) -> Cost:
    """Cost of forward (and backward) over one history."""
    mixer = build(make, dim, kind=torch.float32)
    x = torch.randn(1, length, dim, generator=torch.Generator().manual_seed(0))
    ctx = Context(times=torch.arange(length)[None] * 60)
    counter = Counter()
    with counter, torch.set_grad_enabled(backward):
        y = mixer(x.requires_grad_(backward), ctx)
        if backward:
            y.sum().backward()
    finite(f"outputs at {length} events", y)
    return counter.cost


def exponents(make: Make, shortest: int = 1024) -> dict[str, float]:
    """Exponents with which costs grow from 1k (or `shortest`) to 16 times as many events."""
    return growth(partial(cost_of, make), shortest)


def check_linear(make: Make, shortest: int = 1024) -> None:
    """6: operations, elements written and the largest tensor grow no faster than T^1.05.

    Of a mixer that reads few events, up to as many as it can.
    """
    mixer = build(make)
    applies(mixer.linear, "it says linear = False")
    if mixer.max_length is not None:
        shortest = max(1, min(shortest, mixer.max_length // 16))
    check_growth(exponents(make, shortest))
