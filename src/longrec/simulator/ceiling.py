"""Exact prediction on simulated histories: what the best possible model would attain.

The hidden state of a simulated user is small and discrete, so a forward filter gives the exact
posterior of the state given the observed items and times, and with it the exact law of the next
item (the posterior predictive). Home and away chains are independent and never emit the same
event, so each is filtered on its own::

    prior_t(z)     = sum_z' P(z | z', b_t) posterior_{t-1}(z')        b_t: read from the time gap
    posterior_t(z) ~ prior_t(z) [(1 - eps) W[z, x_t] / Z[z] + eps W[bg, x_t] / Z[bg]]
    P(x | history) = sum_z prior(z) P(x | z)       prior with P(b = 1) = 1 / session (or certain)

Three callers' choices: the whole history (the ceiling); only the last `window` events (bounds
every windowed model: the filter restarts from the stationary law, and is still told the event
count and the time of the event before its window); or the true hidden state (`latent`, the oracle
that no model can reach). Time is vectorised over users: one numpy pass per event of the longest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from longrec.core.arrays import Floats, Ints
from longrec.core.errors import UsageError
from longrec.simulator.config import SESSION_GAP, Flags, World, epochs_of, menu_epochs
from longrec.simulator.markov import chains_of
from longrec.simulator.simulate import Simulation

if TYPE_CHECKING:
    from longrec.data.histories import Histories
    from longrec.data.splits import Targets

RUNS_AT_ONCE = 256  # users (or windows) filtered together: their states fit in the cache
TARGETS_AT_ONCE = 512  # rows of probabilities handed over together
TIE = 1e-12  # relative difference below which two probabilities count as equal


@dataclass(frozen=True)
class _Observed:
    """What a filter sees of the histories: flat arrays over all events."""

    offsets: Ints
    items: Ints  # simulated item numbers
    menu: Ints  # epoch whose items the event could choose from
    session: Flags  # whether the event started a session
    column: Ints  # (N,) catalog index of each simulated item, 0 where it never occurred


def _observe(simulation: Simulation, histories: Histories) -> _Observed:
    offsets = np.asarray(histories.offsets)
    if histories.times is None:
        raise UsageError("exact filtering needs histories with times")
    if not np.array_equal(np.diff(offsets), simulation.lengths):
        raise UsageError("histories do not come from this simulation: other users or lengths")
    column = np.asarray(histories.catalog.find(simulation.world.item_ids()), dtype=np.int64)
    number = np.full(histories.n_items + 1, -1)
    number[column] = np.arange(column.size)
    if (number[1:] < 0).any():
        raise UsageError("histories do not come from this simulation: other items")
    times = np.asarray(histories.times)
    return _Observed(
        offsets=offsets,
        items=number[histories.items],
        menu=menu_epochs(times, offsets[:-1]),
        session=np.diff(times, prepend=times[:1]) >= SESSION_GAP,
        column=column,
    )


@dataclass(frozen=True)
class _Runs:
    """Stretches of events to filter, longest first, and the targets inside each."""

    begin: Ints  # (R,) absolute first event
    steps: Ints  # (R,) events up to the last target
    run_of: Ints  # (n,) run of each target
    step_of: Ints  # (n,) events of the run before each target


def _plan(offsets: Ints, users: Ints, positions: Ints, window: int | None) -> _Runs:
    """One run per user, or with a window one per target."""
    if window is None:
        unique, run_of = np.unique(users, return_inverse=True)
        begin = offsets[unique]
    else:
        run_of = np.arange(users.size)
        begin = np.maximum(offsets[users], positions - window)
    step_of = positions - begin[run_of]
    steps = np.zeros(begin.size, dtype=np.int64)
    np.maximum.at(steps, run_of, step_of)
    order = np.argsort(-steps, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(order.size)
    return _Runs(begin[order], steps[order], rank[run_of], step_of)


def _filter(
    world: World, seen: _Observed, users: Ints, positions: Ints, window: int | None
) -> Iterator[tuple[Ints, Floats]]:
    """Yield (rows of targets, law of the component (rows, K)), each target once."""
    runs = _plan(seen.offsets, users, positions, window)
    home, away = chains_of(world)
    eps = world.config.background
    tables = np.ascontiguousarray(world.weights.T)  # (N, K): an event reads one row
    spans = ((home, slice(0, world.home)), (away, slice(world.home, world.background)))
    origin = np.zeros(runs.begin.size, dtype=np.int64)
    origin[runs.run_of] = seen.offsets[users]
    for low in range(0, runs.begin.size, RUNS_AT_ONCE):
        block = slice(low, low + RUNS_AT_ONCE)
        begin, steps = runs.begin[block], runs.steps[block]
        states = [chain.start(begin.size) for chain, _ in spans]
        targets = np.flatnonzero((runs.run_of >= low) & (runs.run_of < low + begin.size))
        targets = targets[np.argsort(runs.step_of[targets], kind="stable")]
        edges = np.searchsorted(runs.step_of[targets], np.arange(steps[0] + 2))
        for step in range(steps[0] + 1):
            alive = int(np.searchsorted(-steps, -step, side="right"))
            at = begin[:alive] + step
            counts = at - origin[block][:alive]
            place = counts % world.config.cycle
            is_home, is_gate = world.is_home(counts), world.is_gate(counts)
            phases = (is_home, ~is_home & ~is_gate)
            due = targets[edges[step] : edges[step + 1]]
            if due.size:
                law = np.zeros((due.size, world.gate + 1))
                row = runs.run_of[due] - low
                law[:, world.background] = np.where(is_gate[row], 0.0, eps)
                law[:, world.gate] = is_gate[row]
                chance = np.where(world.surely_starts(counts), 1.0, 1 / world.config.session)
                for state, (chain, span), here in zip(states, spans, phases, strict=True):
                    mine = np.flatnonzero(here[row])
                    r = row[mine]
                    prior = chain.ahead(state[r], chance[r], place[r])
                    law[mine, span] = (1 - eps) * chain.components(prior)
                yield due, law
            for state, (chain, span), here in zip(states, spans, phases, strict=True):
                rows = np.flatnonzero(
                    here & (steps[:alive] > step)
                )  # a last target is not absorbed
                if rows.size == 0:
                    continue
                x, e = seen.items[at[rows]], seen.menu[at[rows]]
                noise = tables[x, world.background] / world.totals[e, world.background]
                likelihood = (1 - eps) * tables[x, span] / world.totals[e, span]
                likelihood += eps * noise[:, None]
                old = state[rows]
                # A run's first event takes a transition too: the law it starts from is stationary.
                prior = chain.ahead(old, seen.session[at[rows]].astype(np.float64), place[rows])
                state[rows] = chain.absorb(old, prior, likelihood, place[rows])


def predictive(
    simulation: Simulation,
    histories: Histories,
    targets: Targets,
    window: int | None = None,
    latent: bool = False,
) -> Iterator[tuple[Ints, Floats]]:
    """Yield the exact law of each target's item, in blocks of targets.

    Parameters
    ----------
    simulation : Simulation
    histories : Histories
        ``simulation.to_histories(…)``, nothing dropped.
    targets : Targets
        `users` and `positions` of what is to be predicted.
    window : int, optional
        Only this many events before the target are seen.
    latent : bool
        The user's true hidden state at the target is seen as well; `window` then changes nothing.

    Yields
    ------
    rows : (n,) int64
        Which targets, as rows of `targets`; every one once, in no particular order.
    probabilities : (n, n_items + 1) float64
        Column = item index; column 0 is 0. A row sums to 1 less the probability of those items
        that exist in the simulation but never occurred, and so have no index.

    Raises
    ------
    UsageError
        When the histories do not come from the simulation, or the window is not positive.
    """
    if window is not None and window < 1:
        raise UsageError(f"window={window} must be at least 1 event")
    world = simulation.world
    seen = _observe(simulation, histories)
    users, positions = np.asarray(targets.users), np.asarray(targets.positions)
    laws = (
        _true_laws(simulation, positions)
        if latent
        else _filter(world, seen, users, positions, window)
    )
    occurred = np.flatnonzero(seen.column)
    times = np.asarray(histories.times)
    for rows, law in _gathered(laws):
        menu = epochs_of(times[positions[rows] - 1])
        by_item = (law / world.totals[menu]) @ world.weights
        by_item *= world.arrival[None, :] <= menu[:, None]
        out = np.zeros((rows.size, histories.n_items + 1))
        out[:, seen.column[occurred]] = by_item[:, occurred]
        yield rows, out


def _true_laws(simulation: Simulation, positions: Ints) -> Iterator[tuple[Ints, Floats]]:
    """Yield the law of the component given the hidden state: certain, but for the background."""
    world, eps = simulation.world, simulation.config.background
    component = simulation.latent["component"].to_numpy()
    for low in range(0, positions.size, TARGETS_AT_ONCE):
        rows = np.arange(low, min(low + TARGETS_AT_ONCE, positions.size))
        law = np.zeros((rows.size, world.gate + 1))
        law[:, world.background] = eps
        law[np.arange(rows.size), component[positions[rows]]] = 1 - eps
        gates = component[positions[rows]] == world.gate
        law[gates] = np.eye(world.gate + 1)[world.gate]
        yield rows, law


def _gathered(pieces: Iterator[tuple[Ints, Floats]]) -> Iterator[tuple[Ints, Floats]]:
    """Join small pieces to blocks of about TARGETS_AT_ONCE rows."""
    held: list[tuple[Ints, Floats]] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += piece[0].size
        if size >= TARGETS_AT_ONCE:
            yield np.concatenate([r for r, _ in held]), np.concatenate([w for _, w in held])
            held, size = [], 0
    if held:
        yield np.concatenate([r for r, _ in held]), np.concatenate([w for _, w in held])


def ceiling(
    simulation: Simulation,
    histories: Histories,
    targets: Targets,
    window: int | None = None,
    latent: bool = False,
) -> pl.DataFrame:
    """Rank the catalog by the exact law of the next item: what the best model attains.

    Ranking by probability maximises the expectation of every gain that falls with the unfiltered
    rank (HR@k, NDCG@k and MRR alike), over all models that see the same events. With seen items
    filtered it does so over the targets that are not repeats; of a repeat, which competes with
    unseen items only, a score that lifted all seen items could rank it higher without any merit.
    Equal probabilities rank by item index, which says nothing about the item: the best model gives
    no two items the same score, since ties count against it, and any order of them does equally
    well.

    Parameters
    ----------
    simulation, histories, targets, window, latent
        As for `predictive`.

    Returns
    -------
    polars frame
        One row per target in the order of `targets`: ``user``, ``position``, ``length`` (events
        before the target), ``rank`` (seen items filtered), ``rank_unfiltered``, ``known``,
        ``repeat``.
    """
    users, positions = np.asarray(targets.users), np.asarray(targets.positions)
    offsets, items = np.asarray(histories.offsets), np.asarray(histories.items)
    lengths = positions - offsets[users]
    ranks = np.zeros((2, users.size), dtype=np.int64)
    repeat = np.zeros(users.size, dtype=np.bool_)
    index = np.arange(histories.n_items + 1)[None, :]
    for rows, probabilities in predictive(simulation, histories, targets, window, latent):
        true = items[positions[rows]]
        place = np.arange(rows.size)
        own = probabilities[place, true][:, None]
        above = probabilities > own * (1 + TIE)
        above |= (probabilities >= own * (1 - TIE)) & (index <= true[:, None])
        above[:, 0] = False
        ranks[1, rows] = above.sum(axis=1)
        owner = np.repeat(place, lengths[rows])
        skipped = np.repeat(np.cumsum(lengths[rows]) - lengths[rows], lengths[rows])
        event = np.arange(owner.size) - skipped + offsets[users[rows]][owner]
        seen = np.zeros_like(above)
        seen[owner, items[event]] = True
        repeat[rows] = seen[place, true]
        seen[place, true] = False
        ranks[0, rows] = (above & ~seen).sum(axis=1)
    return pl.DataFrame(
        {
            "user": users,
            "position": positions,
            "length": lengths,
            "rank": ranks[0],
            "rank_unfiltered": ranks[1],
            "known": np.asarray(targets.known),
            "repeat": repeat,
        }
    )
