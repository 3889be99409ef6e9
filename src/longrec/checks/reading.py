"""Checks of how a model reads histories: causality, padding, masks, streaming, cost."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from longrec.checks.compare import CheckFailed, applies, finite, parts, require, same, same_state
from longrec.checks.cost import Cost, Counter, check_growth, exponents
from longrec.checks.small_model import EVENTS, N_ITEMS, SmallModel
from longrec.mixers import Context
from longrec.mixers.base import map_state
from longrec.models import MODELS, SequenceModel

TOLERANCE = 1e-9
LENGTHS = (EVENTS, 1, 13)
PREFILLED = (9, 0, 4)
STEPS = 20


def check_causal(small: SmallModel) -> None:
    """`causal` is true: a later event changes no h before it, and changes some where it is not."""
    model, batch = small.build(), small.batch
    h = model.encode(batch.items, batch.context())
    require(
        h.shape[:2] == batch.items.shape,
        f"encode of items {tuple(batch.items.shape)} gives h of shape {tuple(h.shape)}",
    )
    for t in (1, 17, EVENTS - 1):
        other = batch.changed_from(t)
        before = model.encode(other.items, other.context())[:, :t]
        if model.causal:
            same(f"h before event {t}, which was changed", before, h[:, :t], TOLERANCE)
        else:
            require(
                not torch.allclose(before, h[:, :t]),
                f"causal is False, but event {t} changes no h before it: say causal = True",
            )


def check_times(small: SmallModel) -> None:
    """`reads_times` is true: a model that does not say it gives the same with no times at all."""
    model, batch = small.build(), small.batch
    applies(not model.takes_times, "it says that it reads times")
    with_times = model.encode(batch.items, batch.context())
    without = model.encode(batch.items, replace(batch.context(), times=None))
    same("h without times (reads_times is False)", without, with_times, TOLERANCE)


def check_padding(small: SmallModel) -> None:
    """A history alone, padded, and among any neighbours gives the same h."""
    model, batch = small.build(), small.batch
    lengths = torch.tensor(LENGTHS)
    alone = [
        model.encode(
            batch.items[row : row + 1, :length],
            batch.context(slice(length), slice(row, row + 1)),
        )[0]
        for row, length in enumerate(LENGTHS)
    ]
    for order in ([0, 1, 2], [2, 1], [1, 2, 2]):
        chosen = torch.tensor(order)
        width = max(LENGTHS[row] for row in order)
        ctx = batch.context(slice(width), chosen, lengths[chosen])
        real = torch.arange(width) < lengths[chosen, None]
        for filling in (0, 1):  # an item stands in padding where a batch was cut out of another
            items = torch.where(real, batch.items[chosen, :width], filling)
            h = model.encode(items, ctx)
            for place, row in enumerate(order):
                length = LENGTHS[row]
                name = f"h of a history of {length} events, padded to {width} with item {filling},"
                same(name, h[place, :length], alone[row], TOLERANCE)


def check_masks(small: SmallModel) -> None:
    """What a mask hides is never read, and the mask is."""
    model, batch = small.example, small.batch
    applies(model.targets == "masked", f"its targets are {model.targets!r}")
    masked = torch.zeros_like(batch.items, dtype=torch.bool)
    masked[0, [0, 4]] = masked[1, EVENTS - 1] = masked[2] = True
    h = model.hidden(batch.items, batch.context(), masked)
    other = model.hidden(batch.changed_at(masked).items, batch.context(), masked)
    same("h where masked items were changed", other, h, TOLERANCE)
    require(
        not torch.allclose(model.hidden(batch.items, batch.context()), h), "masks change nothing"
    )


def check_streaming(small: SmallModel) -> None:
    """Streaming is exact: a state gives what the whole history gives, and does not grow."""
    model, batch = _streaming(small), small.batch
    h = model.encode(batch.items, batch.context())
    state, first = model.initial_state(len(batch.items)), torch.tensor(PREFILLED)
    widest = slice(max(PREFILLED) + 1)
    part, state = model.prefill(batch.items[:, widest], state, batch.context(widest, lengths=first))
    _clock("after prefill", state.count, first)
    for row, length in enumerate(PREFILLED):
        same("h by prefill", part[row, :length], h[row, :length], TOLERANCE)
    empty = model.initial_state(1)
    for (name, x), (_, start) in zip(parts(state), parts(empty), strict=True):
        same(f"{name} of a user without events", x[1:2], start, TOLERANCE)
    rows = torch.arange(len(first))
    for number in range(STEPS):
        at = first + number
        items, ctx = batch.at(at)
        y, state = model.step(items, state, ctx)
        same(f"h by step {number}", y, h[rows, at], TOLERANCE)
        same("state.output", state.output, y, TOLERANCE)
        _clock("after step", state.time, batch.times[rows, at])
    _clock("after steps", state.count, first + STEPS)
    events = slice(PREFILLED[0] + STEPS)
    _, final = model.prefill(
        batch.items[:1, events], model.initial_state(1), batch.context(events, slice(1))
    )
    same_state(map_state(lambda x: x[:1], state), final, TOLERANCE)
    for (name, x), (_, start) in zip(parts(final), parts(empty), strict=True):
        require(
            x.shape == start.shape,
            f"{name} has shape {tuple(x.shape)} after {events.stop} events and "
            f"{tuple(start.shape)} before the first: a state must not grow",
        )


def check_prefills(small: SmallModel) -> None:
    """Histories in several prefills give what they give whole."""
    model, batch = _streaming(small), small.batch
    h = model.encode(batch.items, batch.context())
    for cuts in ((EVENTS,), (8, 8, 14), (3, 1, 17, 9)):
        state, first = model.initial_state(len(batch.items)), 0
        for size in cuts:
            events = slice(first, first + size)
            y, state = model.prefill(batch.items[:, events], state, batch.context(events))
            same(f"h of events {first} to {first + size} by prefill", y, h[:, events], TOLERANCE)
            first += size


def check_no_events(small: SmallModel) -> None:
    """No events (T = 0) give no h, and leave the state as it was."""
    model, batch = small.build(), small.batch
    none, items = slice(0), batch.items[:, :0]
    wanted = model.encode(batch.items, batch.context())[:, :0]
    for lengths in (None, torch.zeros(len(items), dtype=torch.int64)):
        same("h of no events", model.encode(items, batch.context(none, lengths=lengths)), wanted, 0)
    if not isinstance(model, SequenceModel) or model.streaming != "exact":
        return
    start = model.initial_state(len(items))
    _, state = model.prefill(batch.items, start, batch.context())
    h, after = model.prefill(items, state, batch.context(none))
    same("h of no events by prefill", h, wanted, 0)
    for (name, part), (_, before) in zip(parts(after), parts(state), strict=True):
        require(torch.equal(part, before), f"{name}: not as it was before no events")


def check_late_events(small: SmallModel) -> None:
    """A late event counts as simultaneous: it does not turn the user's clock back."""
    model = _streaming(small)
    state = model.initial_state(1)
    columns = small.column_values((1,)) or None
    for item, time, wanted in ((3, -500, -500), (4, -300, -300), (5, -400, -300)):
        ctx = Context(times=torch.tensor([time]), columns=columns)
        _, state = model.step(torch.tensor([item]), state, ctx)
        _clock(f"after an event at {time}", state.time, torch.tensor([wanted]))


def check_float_type(small: SmallModel, kind: torch.dtype) -> None:
    """Every form runs in a float type: encode, prefill and step give h of that type."""
    model, batch = small.sequence(kind), small.batch
    h = model.encode(batch.items, batch.context())
    found = [("encode", h)]
    if model.streaming == "exact":
        events = slice(EVENTS - 1)
        state = model.initial_state(len(batch.items))
        y, state = model.prefill(batch.items[:, events], state, batch.context(events))
        items, ctx = batch.at(torch.full((len(batch.items),), EVENTS - 1))
        z, _ = model.step(items, state, ctx)
        found += [("prefill", y), ("step", z)]
        limit = 1e-4 if kind == torch.float32 else 0.3
        error = float((z - h[:, -1]).detach().abs().max())
        require(error < limit, f"h by step in {kind} differs by {error:.2e} from encode's")
    for form, x in found:
        require(x.dtype == kind, f"{form} gives {x.dtype} of a model in {kind}")
        finite(f"h by {form} in {kind}", x)


def check_refuses_states(small: SmallModel) -> None:
    """A model without exact streaming refuses to make states, and names one that is registered."""
    model = small.example
    applies(model.streaming != "exact", "streaming is 'exact'")
    try:
        model.initial_state(1)
    except ValueError:
        pass
    else:
        raise CheckFailed(f"streaming is {model.streaming!r}, but initial_state makes a state")
    named = model.streams_as
    require(
        named is None or (named in MODELS and MODELS[named].streaming == "exact"),
        f"streams_as is {named!r}, which is no registered model that streams exactly",
    )
    require(
        model.streaming != "windowed" or model.max_length is not None,
        "streaming is 'windowed', but max_length is None: say how many events are read",
    )


def check_cost(small: SmallModel, shortest: int = 1024) -> None:
    """`linear` is true: the counted cost of `encode` grows in proportion to the history."""
    model = small.sequence(torch.float32)
    applies(model.linear, "a mixer of it says linear = False")
    applies(model.max_length is None, f"it reads at most {model.max_length} events")

    def cost_at(events: int) -> Cost:
        random = torch.Generator().manual_seed(0)
        items = torch.randint(1, N_ITEMS + 1, (1, events), generator=random)
        columns = small.column_values((1, events)) or None
        counter = Counter()
        with torch.no_grad(), counter:
            model.encode(items, Context(times=torch.arange(events)[None] * 60, columns=columns))
        return counter.cost

    check_growth(exponents(cost_at, shortest, 4))


def _streaming(small: SmallModel) -> SequenceModel:
    model = small.example
    applies(model.streaming == "exact", f"streaming is {model.streaming!r}")
    return model


def _clock(when: str, got: Tensor, wanted: Tensor) -> None:
    require(
        torch.equal(got, wanted),
        f"the state's count or time {when} is {got.tolist()}, not {wanted.tolist()}",
    )
